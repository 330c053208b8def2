"""Voices: named distributions over the next token, computed as rows of as few forwards as possible."""

from collections.abc import Mapping, Sequence
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.choice import Choice
from collegium.core.protocols import Tokenizer
from collegium.core.routing import BASE
from collegium.models import Base, Group, RowPlan, RowReader


@runtime_checkable
class VoicesDecoding(Protocol):
    """Texts continued by every chosen voice at once."""

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each prompt token; 0 at position 0 and for padding."""
        ...

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        """Return each row's log-probabilities of the next token."""
        ...

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append a token to every text."""
        ...

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        ...


@runtime_checkable
class Voices(Protocol):
    """Named next-token distributions over one vocabulary."""

    @property
    def names(self) -> tuple[str, ...]:
        """All voices."""
        ...

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The tokenizer they share."""
        ...

    @property
    def vocab_size(self) -> int:
        """The size of their vocabulary."""
        ...

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token; 0 at position 0 and for padding.

        context: what a voice that decides once may read first. Tokens inside it are scored as if it had read one.
        """
        ...

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        ...

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        ...


def row_plan(choice: Choice, keys: Mapping[str, str]) -> RowPlan:
    """Return the rows that ask the chosen voices: a group per voice, or per rank of each text's own choice.

    A per-text choice is a blend with one-hot weights, which is that expert alone; `base` is the empty blend.
    """
    if choice.index is None:
        return RowPlan(tuple(Group(() if name == BASE else (keys[name],)) for name in choice.names))
    live = [name for name in choice.names if name != BASE]
    place = torch.tensor([live.index(name) if name != BASE else len(live) for name in choice.names])
    eye = torch.eye(len(live) + 1)[:, : len(live)]
    weights = eye[place[choice.index.cpu()]]
    adapters = tuple(keys[name] for name in live)
    return RowPlan(tuple(Group(adapters, weights[:, rank, None, :]) for rank in range(choice.rows)))


class SlotVoices:
    """The base and adapters on it, computed as rows of one forward with a shared trunk.

    keys: voice name -> name under which its adapter is attached to the base.
    """

    def __init__(self, base: Base, keys: Mapping[str, str]) -> None:
        """Keep the base and the attached adapters' names."""
        self.base = base
        self.keys = dict(keys)

    @property
    def names(self) -> tuple[str, ...]:
        """The base and the adapters."""
        return (BASE, *self.keys)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def vocab_size(self) -> int:
        """The base's vocabulary."""
        return self.base.vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that the base reads."""
        return self.base.context_tokens

    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq row"]:
        """Return each chosen voice's log-probability of each token; adapters read no context."""
        return self.base.score_rows(tokens, lengths=lengths, plan=row_plan(choice, self.keys)).permute(1, 2, 0)

    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        choice: Choice,
        *,
        lengths: Int[Tensor, " batch"] | None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "row batch seq vocab"]:
        """Return each chosen voice's whole distribution at every position."""
        return self.base.logprobs_rows(tokens, plan=row_plan(choice, self.keys))

    def open(self, prompts: Sequence[Sequence[int]], choice: Choice) -> VoicesDecoding:
        """Return a decoding of the prompts by the chosen voices."""
        return self.begin(self.base.open_rows(prompts, row_plan(choice, self.keys)), choice)

    def begin(self, rows: RowReader, choice: Choice) -> VoicesDecoding:
        """Return what the chosen voices say in rows by `row_plan`."""
        return _SlotDecoding(rows, choice)


class _SlotDecoding:
    def __init__(self, rows: RowReader, choice: Choice) -> None:
        self.rows, self.choice = rows, choice

    def prompt_scores(self) -> Float[Tensor, "batch seq row"]:
        scores = self.rows.prompt_scores
        return scores.view(self.choice.rows, self.rows.texts, -1).permute(1, 2, 0)

    def logprobs(self) -> Float[Tensor, "batch row vocab"]:
        return self.rows.logprobs.view(self.choice.rows, self.rows.texts, -1).transpose(0, 1)

    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        self.rows.step(tokens)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        self.rows.keep(rows)
        self.choice = self.choice.keep(rows)
