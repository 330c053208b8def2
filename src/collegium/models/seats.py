"""One text among those that a decoding continues, as if it were alone there."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.models.decoding import RowDecoding
from collegium.models.rows import RowPlan, Rows, last_weights, map_weights
from collegium.models.slots import Trace


class Seat:
    """A text's rows in a decoding that others share; what steps takes effect when all have taken theirs.

    rows:    what its next step is run with. changed: whether they are others than at its last step.
    pending: the token it waits to have read, None when there is none.
    """

    texts = 1

    def __init__(self, plan: RowPlan, prompt_tokens: int) -> None:
        """Begin with rows that nobody has run yet."""
        self.rows: Rows = plan.rows(1)
        self.prompt_tokens = prompt_tokens
        self.changed = False
        self.pending: int | None = None
        self._shared: RowDecoding | None = None
        self._where, self._text = torch.empty(0, dtype=torch.long), 0
        self._moved: Callable[[], None] = _nobody_moves

    def place(
        self, shared: RowDecoding, where: Int[Tensor, " row"], *, text: int = 0, moved: Callable[[], None] | None = None
    ) -> None:
        """Take these rows of a decoding, which read this text of it.

        moved: is called when rows have come or gone, and places everybody anew.
        """
        self._shared, self._where, self._text = shared, where, text
        self._moved = moved or _nobody_moves

    @property
    def shared(self) -> RowDecoding:
        """The decoding it is part of."""
        if self._shared is None:
            raise RoutingError("this text was not read yet.")
        return self._shared

    @property
    def logprobs(self) -> Float[Tensor, "row vocab"]:
        """Log-probabilities of the token that follows, for every row."""
        said = self.shared.logprobs
        return said[self._where.to(said.device)]

    @property
    def prompt_scores(self) -> Float[Tensor, "row seq"]:
        """Each prompt token's log-probability given those before it; 0 at position 0."""
        return self.shared.prompt_scores_of(self._where)[:, : self.prompt_tokens]

    @property
    def trace(self) -> Trace | None:
        """What gates said of what was read last, by module path."""
        shared = self.shared.trace
        if shared is None:
            return None
        rows = self._where
        return {path: (said[rows], None if index is None else index[rows]) for path, (said, index) in shared.items()}

    def has_read_prompt(self) -> None:
        """Go on with the weights of the prompt's last position."""
        self.rows = last_weights(self.rows, torch.tensor([self.prompt_tokens]))

    def step(self, tokens: Int[Tensor, " text"], plan: RowPlan | None = None) -> None:
        """Ask for one more token to be read, from here on with other experts or weights if a plan is given."""
        self.pending = int(tokens[0])
        if plan is not None:
            self.rows, self.changed = plan.rows(1), True

    def split_each(self, groups: Sequence[Int[Tensor, " _"]]) -> list[RowDecoding]:
        """Return groups of its rows, each as a decoding of its own; see `RowDecoding.split_each`."""
        others = self.shared.split_each([self._where[rows] for rows in groups])
        stay = torch.ones(self.rows.count, dtype=torch.bool)
        stay[torch.cat(list(groups))] = False
        self.rows = self.rows.take(stay.nonzero().flatten())
        self._moved()
        return others

    def join(self, other: RowDecoding, texts: Int[Tensor, " other_text"] | None = None) -> None:
        """Take rows in that have read all of this text, behind its own; see `RowDecoding.join`."""
        self.shared.join(other, torch.tensor([self._text]))
        self.shared.sort_rows()
        both = self.rows.joined(other.rows)
        self.rows = replace(both, texts=1, text=torch.zeros(both.count, dtype=torch.long))
        self._moved()

    def keep(self, texts: Int[Tensor, " kept"]) -> None:
        """Stay; a text that leaves is taken out by whoever shares the decoding out."""


def _nobody_moves() -> None:
    raise RoutingError("rows come and go where their decoding is shared out; this text has not been given a place.")


RowReader = RowDecoding | Seat
"""Whatever continues texts in rows."""


def seat_rows(seats: Sequence[Seat]) -> Rows:
    """Return the rows of these texts behind each other, weights by position as long as the longest prompt."""
    every = [seat.rows for seat in seats]
    by_position = any(rows.weights is not None and rows.weights.shape[-2] > 1 for rows in every)
    seq = max(seat.prompt_tokens for seat in seats) if by_position else 1
    return functools.reduce(Rows.joined, (_as_long(rows, seq) for rows in every))


def positions_of(rows: Rows, start: int, stop: int) -> Rows:
    """Return the rows with the weights of these positions alone."""
    return map_weights(rows, lambda weights: weights if weights.shape[-2] == 1 else weights[..., start:stop, :])


def _as_long(rows: Rows, seq: int) -> Rows:
    """Return the rows with the last position's weights repeated up to so many."""
    place = torch.arange(seq)

    def change(weights: Tensor) -> Tensor:
        many = weights.shape[-2]
        return weights if many in {1, seq} else weights[..., place.clamp(max=many - 1), :]

    return map_weights(rows, change)
