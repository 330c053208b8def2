"""Texts drawn from a proposal: tokens, the log-probability each was drawn with, and what features read of it.

A text's space is all completions of its prompt that end by themselves within `tokens` new tokens, and those cut there;
their probabilities sum to one. The end token is part of a text: its log-probability counts, features do not see it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collegium.core.errors import BaseModelError, ConfigError, DataError
from collegium.core.protocols import LanguageModel, context_limit
from collegium.core.samples import Sample
from collegium.infer import end_tokens
from collegium.ops.drawing import draw_tokens


@dataclass(frozen=True)
class Prompt:
    """What a text goes on from: its text, and its token ids (at least one)."""

    text: str
    ids: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Draws:
    """Texts with their bookkeeping.

    tokens:  prompt, completion and its end, padded on the right. context: how many are the prompt's. lengths: of all.
    log_proposal: log q(completion | prompt) of what drew it, at its temperature, the end counted.
    prompt:  which prompt each goes on from. samples: the same as text, as features read it.
    """

    tokens: Int[Tensor, "sample seq"]
    context: Int[Tensor, " sample"]
    lengths: Int[Tensor, " sample"]
    log_proposal: Float[Tensor, " sample"]
    prompt: Int[Tensor, " sample"]
    samples: tuple[Sample, ...]

    def __len__(self) -> int:
        """How many texts."""
        return len(self.tokens)

    @property
    def scored(self) -> Bool[Tensor, "sample seq"]:
        """Which tokens belong to completions, ends included."""
        place = torch.arange(self.tokens.shape[1])
        return (place >= self.context[:, None]) & (place < self.lengths[:, None])

    def take(self, rows: Int[Tensor, " kept"]) -> "Draws":
        """Return these texts alone, in this order."""
        width = int(self.lengths[rows].max()) if len(rows) else 1
        return Draws(
            self.tokens[rows, :width],
            self.context[rows],
            self.lengths[rows],
            self.log_proposal[rows],
            self.prompt[rows],
            tuple(self.samples[row] for row in rows.tolist()),
        )

    def log_prob(self, model: LanguageModel) -> Float[Tensor, " sample"]:
        """Return log p(completion | prompt) under a model, ends included, in float64 and without gradient."""
        with torch.no_grad():
            scores = model.score(self.tokens, lengths=self.lengths, context=self.context)
        return scores.double().sum(-1).cpu()


def join_draws(parts: Sequence[Draws]) -> Draws:
    """Return draws behind each other."""
    width = max(part.tokens.shape[1] for part in parts)
    tokens = [torch.nn.functional.pad(part.tokens, (0, width - part.tokens.shape[1])) for part in parts]
    return Draws(
        torch.cat(tokens),
        torch.cat([part.context for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat([part.log_proposal for part in parts]),
        torch.cat([part.prompt for part in parts]),
        tuple(sample for part in parts for sample in part.samples),
    )


@dataclass(frozen=True)
class Drawing:
    """How texts are drawn.

    tokens: at most so many new ones. temperature: q is the model's distribution sharpened by 1 / temperature; nothing
    is cut off it, since a proposal must reach whatever the target does. batch: texts that are drawn at once.
    ends: token ids that end a text; None = what the model's tokenizer says.
    """

    tokens: int = 32
    temperature: float = 1.0
    batch: int = 64
    ends: frozenset[int] | None = None

    def __post_init__(self) -> None:
        """Raise ConfigError for impossible values."""
        if self.tokens < 1 or self.batch < 1:
            raise ConfigError(
                f"--tokens and --batch are at least 1, got {self.tokens} and {self.batch}; texts are drawn in batches."
            )
        if not 1e-2 <= self.temperature <= 1e2:
            raise ConfigError(f"--temperature lies in [0.01, 100], got {self.temperature}; 1 is the model's own.")


def as_prompt(text: str, model: LanguageModel) -> Prompt:
    """Return a prompt's tokens; raises DataError for an empty one, or for a model without tokenizer."""
    if model.tokenizer is None:
        raise DataError("this model has no tokenizer files, so that no text can go on from it; give token ids.")
    ids = tuple(model.tokenizer.encode(text)) if text else ()
    if not ids:
        raise DataError("the prompt is empty: give at least one word to go on from.")
    return Prompt(text, ids)


def draw(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    drawing: Drawing,
    random: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Draws:
    """Return a completion of each prompt (name one twice for two), drawn from a model.

    progress: told after each batch how many are done. Raises BaseModelError for prompts that leave no room.
    """
    limit, longest = context_limit(model), max((len(each.ids) for each in prompts), default=0)
    if limit is not None and longest + drawing.tokens > limit:
        raise BaseModelError(
            f"this model reads at most {limit} tokens: a prompt of {longest} and --tokens {drawing.tokens} are more."
        )
    known = {prompt: number for number, prompt in enumerate(dict.fromkeys(prompts))}
    parts = []
    for first in range(0, len(prompts), drawing.batch):
        part = prompts[first : first + drawing.batch]
        numbers = torch.tensor([known[each] for each in part])
        parts.append(_draw_batch(model, part, numbers, drawing=drawing, random=random))
        if progress is not None:
            progress(first + len(part))
    return join_draws(parts)


@torch.no_grad()
def _draw_batch(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    numbers: Int[Tensor, " sample"],
    *,
    drawing: Drawing,
    random: torch.Generator,
) -> Draws:
    ends = end_tokens(model.tokenizer) if drawing.ends is None else drawing.ends
    decoding = model.open([each.ids for each in prompts])
    live, log_q = torch.arange(len(prompts)), torch.zeros(len(prompts), dtype=torch.float64)
    said: list[list[int]] = [[] for _ in prompts]
    for place in range(drawing.tokens):
        log_probs = decoding.next_logprobs().cpu()
        if drawing.temperature != 1:
            log_probs = (log_probs / drawing.temperature).log_softmax(-1)
        chosen = draw_tokens(log_probs, random=random)
        log_q[live] += log_probs.gather(1, chosen[:, None])[:, 0].double()
        tokens = chosen.tolist()
        for row, token in zip(live.tolist(), tokens, strict=True):
            said[row].append(token)
        stay = torch.tensor([token not in ends for token in tokens])
        if place + 1 == drawing.tokens or not bool(stay.any()):
            break
        if not bool(stay.all()):
            live = live[stay]
            decoding.keep(stay.nonzero()[:, 0])
        decoding.step(chosen[stay])
    return _draws(model, prompts, said, numbers=numbers, log_q=log_q, ends=ends)


def _draws(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    said: Sequence[Sequence[int]],
    *,
    numbers: Int[Tensor, " sample"],
    log_q: Float[Tensor, " sample"],
    ends: frozenset[int],
) -> Draws:
    """Return what was said with its bookkeeping."""
    rows = [[*prompt.ids, *tokens] for prompt, tokens in zip(prompts, said, strict=True)]
    width = max(map(len, rows))
    shown = [tokens[:-1] if tokens[-1] in ends else tokens for tokens in said]
    return Draws(
        torch.tensor([[*row, *[0] * (width - len(row))] for row in rows]),
        torch.tensor([len(each.ids) for each in prompts]),
        torch.tensor([len(row) for row in rows]),
        log_q,
        numbers,
        tuple(Sample(prompt.text, text_of(model, ids)) for prompt, ids in zip(prompts, shown, strict=True)),
    )


def text_of(model: LanguageModel, ids: Sequence[int]) -> str:
    """Return token ids as text; where a model has no tokenizer, the numbers with blanks between."""
    return " ".join(map(str, ids)) if model.tokenizer is None else model.tokenizer.decode(list(ids))
