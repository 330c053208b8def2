"""Voices that are computed apart: models with weights of their own, and voices of several kinds in one ensemble."""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.choice import Choice, Share, put_together, share_out
from collegium.compose.routed import right_padded, row_context, row_lengths
from collegium.compose.voices import Voices, VoicesDecoding
from collegium.core.errors import RoutingError
from collegium.core.protocols import Decoding, LanguageModel, Tokenizer, context_limit
from collegium.models import Base, BaseDecoding


class SeparateVoices:
    """Language models with weights of their own (whole small LMs, toys), each asked about its own texts alone."""

    def __init__(self, models: Mapping[str, LanguageModel]) -> None:
        """Keep the models; raises RoutingError when their vocabularies differ."""
        if len({model.vocab_size for model in models.values()}) != 1:
            sizes = {name: model.vocab_size for name, model in models.items()}
            raise RoutingError(f"voices of one ensemble share a vocabulary, got sizes {sizes}.")
        self.models = dict(models)
        self._joined = JoinedVoices([_OneVoice(name, model) for name, model in models.items()])

    @property
    def names(self) -> tuple[str, ...]:
        """The models' names."""
        return tuple(self.models)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first model's tokenizer."""
        return next(iter(self.models.values())).tokenizer

    @property
    def vocab_size(self) -> int:
        """The vocabulary they share."""
        return next(iter(self.models.values())).vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that all of them read."""
        return self._joined.context_tokens

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token."""
        return self._joined.score(tokens, choice, lengths=lengths, context=context)

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        return self._joined.logprobs(tokens, choice, lengths=lengths, context=context)

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        return self._joined.open(prompts, choice)


class _OneVoice:
    """A language model as the only voice of its name."""

    def __init__(self, name: str, model: LanguageModel) -> None:
        self.names: tuple[str, ...] = (name,)
        self.model, self.tokenizer, self.vocab_size = model, model.tokenizer, model.vocab_size
        self.context_tokens = context_limit(model)

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq row"]:
        many = row_lengths(tokens, lengths)
        if isinstance(self.model, Base):  # reads no context, so one pass says all
            return self.model.score(tokens, lengths=many)[..., None]
        read = row_context(context, many)
        scores = self.model.score(tokens, lengths=many, context=read)
        widest = int(read.max())
        if widest > 1:
            inside = self.model.score(tokens[:, :widest], lengths=read)
            scores = scores + torch.nn.functional.pad(inside, (0, tokens.shape[1] - widest))
        return scores[..., None]

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "row batch seq vocab"]:
        return self.model.logprobs(tokens, lengths=lengths, context=context)[None]

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        return _OneDecoding(self, prompts, choice)


class _OneDecoding:
    def __init__(self, voice: _OneVoice, prompts: Sequence[Sequence[int]], choice: Choice) -> None:
        self.voice, self.prompts, self.choice = voice, list(prompts), choice
        self.decoding: Decoding = voice.model.open(prompts)

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        if isinstance(self.decoding, BaseDecoding):  # of what was read when the prompts were opened
            return self.decoding.prompt_scores[..., None]
        tokens, lengths = right_padded(self.prompts)
        return self.voice.score(tokens, self.choice, lengths=lengths)

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        return self.decoding.next_logprobs()[:, None]

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        self.decoding.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.decoding.keep(rows)
        self.prompts, self.choice = [self.prompts[row] for row in rows.tolist()], self.choice.keep(rows)


class JoinedVoices:
    """Voices of several kinds in one ensemble: rows on the base beside whole models.

    Each part reads only the texts that chose one of its voices.
    """

    def __init__(self, parts: Sequence[Voices]) -> None:
        """Keep the parts; raises RoutingError on a name in two of them or on different vocabularies."""
        names = [name for part in parts for name in part.names]
        if len(set(names)) != len(names) or len({part.vocab_size for part in parts}) != 1:
            raise RoutingError(f"joined voices need distinct names and one vocabulary, got {names}.")
        self.parts = tuple(parts)

    @property
    def names(self) -> tuple[str, ...]:
        """All parts' names, in order."""
        return tuple(name for part in self.parts for name in part.names)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The first part's tokenizer."""
        return self.parts[0].tokenizer

    @property
    def vocab_size(self) -> int:
        """The vocabulary they share."""
        return self.parts[0].vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that all parts read."""
        return context_limit(*self.parts)

    def _asked(self, choice: Choice, batch: int) -> list[tuple[Voices, Share]]:
        shares = share_out(choice, batch, [part.names for part in self.parts])
        return [(part, share) for part, share in zip(self.parts, shares, strict=True) if share is not None]

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token."""
        many = row_lengths(tokens, lengths)
        read, answers = row_context(context, many), []
        for part, share in self._asked(choice, len(tokens)):
            own = share.texts
            scores = part.score(tokens[own], share.choice, lengths=many[own], context=read[own])
            answers.append((share, scores.transpose(1, 2)))
        return put_together(answers, batch=len(tokens), rows=choice.rows).transpose(1, 2)

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        many = row_lengths(tokens, lengths)
        read, answers = row_context(context, many), []
        for part, share in self._asked(choice, len(tokens)):
            own = share.texts
            every = part.logprobs(tokens[own], share.choice, lengths=many[own], context=read[own])
            answers.append((share, every.transpose(0, 1)))
        return put_together(answers, batch=len(tokens), rows=choice.rows).transpose(0, 1)

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        asked = self._asked(choice, len(prompts))
        parts = [
            (part.open([prompts[row] for row in share.texts.tolist()], share.choice), share) for part, share in asked
        ]
        return _JoinedDecoding(parts, [len(prompt) for prompt in prompts], choice)


class _JoinedDecoding:
    def __init__(self, parts: Sequence[tuple[VoicesDecoding, Share]], lengths: Sequence[int], choice: Choice) -> None:
        self.parts, self.choice = list(parts), choice
        self.texts, self.longest = len(lengths), max(lengths)

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        answers = []
        for part, share in self.parts:
            scores = part.prompt_scores().transpose(1, 2)
            answers.append((share, torch.nn.functional.pad(scores, (0, self.longest - scores.shape[-1]))))
        return put_together(answers, batch=self.texts, rows=self.choice.rows).transpose(1, 2)

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        answers = [(share, part.logprobs()) for part, share in self.parts]
        return put_together(answers, batch=self.texts, rows=self.choice.rows)

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        for part, share in self.parts:
            part.step(tokens[share.texts])

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        kept = []
        for part, share in self.parts:
            share, own = share.keep(rows)
            if len(own):
                part.keep(own)
                kept.append((part, share))
        self.parts, self.choice, self.texts = kept, self.choice.keep(rows), len(rows)
