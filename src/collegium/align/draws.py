"""Texts drawn from a proposal: tokens, the log-probability each was drawn with, and what features read of it.

A text's space is all completions of its prompt that end by themselves within `tokens` new tokens, and those cut there;
their probabilities sum to one. The end token is part of a text: its log-probability counts, features do not see it.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collegium.core.errors import BaseModelError, ConfigError, DataError
from collegium.core.protocols import LanguageModel, context_limit
from collegium.core.samples import Sample
from collegium.infer import end_tokens
from collegium.models.trunk import Trunk
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
    trunk:   what entered a block below which nothing is changed, where it was noted; 0 at a text's last token.
    """

    tokens: Int[Tensor, "sample seq"]
    context: Int[Tensor, " sample"]
    lengths: Int[Tensor, " sample"]
    log_proposal: Float[Tensor, " sample"]
    prompt: Int[Tensor, " sample"]
    samples: tuple[Sample, ...]
    trunk: Float[Tensor, "sample seq hidden"] | None = None

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
            None if self.trunk is None else self.trunk[rows, :width],
        )

    def log_prob(self, model: LanguageModel) -> Float[Tensor, " sample"]:
        """Return log p(completion | prompt) under a model, ends included, in float64 and without gradient."""
        with torch.no_grad():
            scores = model.score(self.tokens, lengths=self.lengths, context=self.context)
        return scores.double().sum(-1).cpu()


def join_draws(parts: Sequence[Draws]) -> Draws:
    """Return draws behind each other."""
    width = max(part.tokens.shape[1] for part in parts)
    noted = [_padded(part.trunk, width) for part in parts if part.trunk is not None]
    return Draws(
        torch.cat([_padded(part.tokens, width) for part in parts]),
        torch.cat([part.context for part in parts]),
        torch.cat([part.lengths for part in parts]),
        torch.cat([part.log_proposal for part in parts]),
        torch.cat([part.prompt for part in parts]),
        tuple(sample for part in parts for sample in part.samples),
        torch.cat(noted) if len(noted) == len(parts) else None,
    )


def _padded(rows: Tensor, width: int) -> Tensor:
    """Return rows of positions with zeros behind, so many positions in all."""
    behind = width - rows.shape[1]
    return rows if not behind else torch.cat([rows, rows.new_zeros(len(rows), behind, *rows.shape[2:])], dim=1)


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
    trunk: Trunk | None = None,
    progress: Callable[[int], None] | None = None,
) -> Draws:
    """Return a completion of each prompt (name one twice for two), drawn from a model.

    trunk: note its states; the model changes nothing below. progress: told after each batch how many are done.
    Raises BaseModelError for prompts that leave no room.
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
        parts.append(_draw_batch(model, part, numbers, drawing=drawing, random=random, trunk=trunk))
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
    trunk: Trunk | None,
) -> Draws:
    ends = end_tokens(model.tokenizer) if drawing.ends is None else drawing.ends
    with nullcontext([]) if trunk is None else trunk.noting() as entered:
        said, log_q = _said(model, prompts, drawing=drawing, random=random, ends=ends)
    draws = _draws(model, prompts, said, log_q=log_q, ends=ends, numbers=numbers)
    return draws if trunk is None else replace(draws, trunk=_noted(entered, draws))


def _said(
    model: LanguageModel,
    prompts: Sequence[Prompt],
    *,
    drawing: Drawing,
    random: torch.Generator,
    ends: frozenset[int],
) -> tuple[list[list[int]], Float[Tensor, " sample"]]:
    """Return the tokens that follow each prompt, and their log-probability."""
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
    return said, log_q


def _noted(entered: Sequence[Tensor], draws: Draws) -> Float[Tensor, "sample seq hidden"] | None:
    """Return what entered a block at each position, from one run over the prompts and one a token; None for others.

    Prompts are aligned at their ends there; a text's last token is not read.
    """
    read = draws.lengths - draws.context
    longest, steps = int(draws.context.max()), int(read.max())
    alive = [(read > step).nonzero()[:, 0] for step in range(1, steps)]
    wanted = [(len(draws), longest), *((len(rows), 1) for rows in alive)]
    if [each.shape[:2] for each in entered] != wanted:
        return None
    states = entered[0].new_zeros(*draws.tokens.shape, entered[0].shape[-1])
    place = torch.arange(longest)
    filled = place < draws.context[:, None]
    states[:, :longest][filled] = entered[0][place >= longest - draws.context[:, None]]
    for step, (rows, own) in enumerate(zip(alive, entered[1:], strict=True)):
        states[rows, draws.context[rows] + step] = own[:, 0]
    return states


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
