"""Perplexity of any language model on held-out text."""

import math
from collections.abc import Sequence

from collegium.core.errors import DataError
from collegium.core.protocols import LanguageModel
from collegium.data import Document, Domain, cut
from collegium.infer.tables import held_out, nats_per_token, score_text


def perplexity(
    model: LanguageModel,
    text: Domain | Sequence[Document],
    *,
    window: int = 128,
    context: int = 32,
    budget_tokens: int | None = None,
) -> float:
    """Return exp(nats / scored tokens) over windows of a domain's test documents, or of the documents given.

    The first `context` tokens of a window are read and not scored; a posterior restarts at each window.

    Raises DataError when the model has no tokenizer, or no token is left to score.
    """
    documents = text.split().test if isinstance(text, Domain) else tuple(text)
    if model.tokenizer is None:
        raise DataError("this base has no tokenizer files: score token ids with model.score instead.")
    windows = cut(documents, model.tokenizer, window=window, budget_tokens=budget_tokens)
    name = text.name if isinstance(text, Domain) else "text"
    held = held_out({name: windows}, context=context)
    return math.exp(nats_per_token(score_text(model, held), held, name))
