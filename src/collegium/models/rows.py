"""Row plans: which experts, alone or blended, a batch of texts is run through; and the rows that come of one.

A plan is written in groups: each group is one copy of every text. Its rows (groups x texts, group-major) are what is
run. Rows can also be made by hand: any row may read any text, through experts of its own.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Gate
from collegium.core.routing import BASE
from collegium.models.gates import SoftmaxGate, TaskGate

NOBODY = -1
"""In an index: no expert at all."""


@dataclass(frozen=True, eq=False)
class Group:
    """The experts that one copy of every text is run through.

    adapters: attached names; none = the base alone.
    index:    which of them each text is run through, as positions in `adapters`, `NOBODY` = none; None = all of them.
    weights:  how much of each, per text and position read (either axis may be 1), with a leading axis per block of the
              base where blocks differ; None = 1 of each.
    gates:    module path -> what weighs all adapters there, from the layer's or the feed-forward block's own input;
              other places take `weights`. A `SoftmaxGate` may be of the first adapters alone, where the others have no
              part.
    merged:   whether a text is run through one expert whose parameters are the weighted sum of theirs, instead of
              through the weighted sum of what they say; see `models/slots/merged.py`.
    told:     a vector for each text, which its `TaskGate`s read beside the hidden states.
    """

    adapters: tuple[str, ...] = ()
    weights: Float[Tensor, "*layer batch seq k"] | None = None
    index: Int[Tensor, "batch k"] | None = None
    gates: Mapping[str, Gate] | None = None
    merged: bool = False
    told: Float[Tensor, "batch size"] | None = None

    def __post_init__(self) -> None:
        """Check that names are distinct, that there is one weight for each, and that gates of tasks are told one."""
        if len(set(self.adapters)) != len(self.adapters):
            raise RoutingError(f"a group names each expert once, got {self.adapters}.")
        if self.weights is not None and self.weights.shape[-1] != self.k:
            raise RoutingError(
                f"a group has one weight per expert: {self.k} experts, {self.weights.shape[-1]} weights."
            )
        if self.gates is not None and self.index is not None:
            raise RoutingError("gates weigh all of a group's experts; leave the index out.")
        if self.gates and self.merged:
            raise RoutingError(
                "gates weigh each token by itself, what experts say and not their parameters; leave the gates or "
                "`merged` out."
            )
        if (self.told is not None) != any(isinstance(gate, TaskGate) for gate in (self.gates or {}).values()):
            raise RoutingError("gates of tasks are told a vector for each text (`told`), and nobody else is.")
        for path, gate in (self.gates or {}).items():
            if isinstance(gate, SoftmaxGate) and len(gate.weight) > self.k:
                raise RoutingError(
                    f"a gate weighs the first experts of its group: {self.k} experts, the gate at {path!r} is for "
                    f"{len(gate.weight)}."
                )

    @property
    def k(self) -> int:
        """How many experts each text is run through."""
        return len(self.adapters) if self.index is None else self.index.shape[1]


@dataclass(frozen=True, eq=False)
class RowPlan:
    """The groups a batch is run through; rows are groups x texts, group-major.

    >>> [group.adapters for group in RowPlan.each(("law", "base")).groups]
    [('law',), ()]
    """

    groups: tuple[Group, ...]

    def __post_init__(self) -> None:
        """Check that there is a group."""
        if not self.groups:
            raise RoutingError("a row plan has at least one group; name an expert or `base`.")

    @staticmethod
    def one(name: str) -> "RowPlan":
        """Return the plan of one expert, or of the base under its reserved name."""
        return RowPlan.each((name,))

    @staticmethod
    def each(names: Sequence[str]) -> "RowPlan":
        """Return the plan with a group for each name; `base` gives the group without experts."""
        return RowPlan(tuple(Group() if name == BASE else Group((name,)) for name in names))

    @staticmethod
    def blend(names: Sequence[str], weights: Float[Tensor, "batch seq name"]) -> "RowPlan":
        """Return the plan of one group that mixes experts; the weight of `base` changes nothing and is dropped."""
        kept = [column for column, name in enumerate(names) if name != BASE]
        if weights.shape[-1] != len(names):
            raise RoutingError(f"a blend has one weight per name: {len(names)} names, {weights.shape[-1]} weights.")
        chosen = weights if len(kept) == len(names) else weights[..., kept]
        return RowPlan((Group(tuple(names[column] for column in kept), chosen if kept else None),))

    @property
    def signature(self) -> tuple[tuple[str, ...], ...]:
        """The names alone, without weights."""
        return tuple(group.adapters for group in self.groups)

    def rows(self, texts: int) -> "Rows":
        """Return the rows of this plan over so many texts."""
        names = tuple(dict.fromkeys(name for group in self.groups for name in group.adapters))
        k = max(group.k for group in self.groups)
        index = torch.cat([_placed(group, names, texts, k) for group in self.groups])
        gates = {id(group.gates): group.gates for group in self.groups if group.gates}
        if len(gates) > 1 or (gates and len(self.groups) > 1):
            raise RoutingError("gates weigh the experts of one group; run the others by themselves.")
        merged = {group.merged for group in self.groups if group.k}
        if len(merged) > 1:
            raise RoutingError("the groups of a plan are all merged or all mixed; run the others by themselves.")
        return Rows(
            names,
            texts,
            torch.arange(texts).repeat(len(self.groups)),
            index,
            _joined_weights(self.groups, texts, k),
            next(iter(gates.values()), None),
            k if merged == {True} else 0,
            next((_told(group.told, texts) for group in self.groups if group.told is not None), None),
        )


@dataclass(frozen=True, eq=False)
class Rows:
    """The rows of one forward.

    names:   attached experts. texts: how many texts are read.
    text:    which of them each row reads. Below the first block that an expert changes there is a row per text.
    index:   which experts each row is run through, as positions in `names`; `NOBODY` = none.
    weights: how much of each, a row axis of 1 where all rows agree; None = 1 of each. See `Group`.
    gates:   see `Group`. told: of each row what its gates of tasks are told.
    merged:  how many columns of `index`, from the first, are merged; those behind them are worn beside that.
    """

    names: tuple[str, ...]
    texts: int
    text: Int[Tensor, " row"]
    index: Int[Tensor, "row k"]
    weights: Float[Tensor, "*layer row_or_1 seq k"] | None = None
    gates: Mapping[str, Gate] | None = None
    merged: int = 0
    told: Float[Tensor, "row size"] | None = None

    @property
    def count(self) -> int:
        """How many rows."""
        return self.text.shape[0]

    @functools.cached_property
    def groups(self) -> int | None:
        """How many copies of all texts, in their order, the rows are; None when they are anything else."""
        if not self.texts or self.count % self.texts:
            return None
        groups = self.count // self.texts
        return groups if torch.equal(self.text, torch.arange(self.texts).repeat(groups)) else None

    @functools.cached_property
    def places(self) -> tuple[tuple[int, ...], ...]:
        """The index as plain numbers."""
        return tuple(map(tuple, self.index.tolist()))

    @functools.cached_property
    def casts(self) -> dict[tuple[str, ...], tuple[int, ...]]:
        """The experts run through together -> the rows that are, in order; rows of the base alone are left out.

        A cast has a place for each column of `index`; a column without expert has the empty name.
        """
        found: dict[tuple[str, ...], list[int]] = {}
        for row, places in enumerate(self.places):
            if any(place != NOBODY for place in places):
                found.setdefault(tuple("" if place == NOBODY else self.names[place] for place in places), []).append(
                    row
                )
        return {cast: tuple(rows) for cast, rows in found.items()}

    def take(self, rows: Int[Tensor, " kept"]) -> "Rows":
        """Return these rows alone, in this order; texts that nobody reads any more leave, the others keep theirs."""
        texts, text = self.text[rows].unique(return_inverse=True)
        return self._chosen(rows, len(texts), text)

    def rows_of(self, texts: Int[Tensor, " kept"]) -> Int[Tensor, " row"]:
        """Return where the rows of these texts stand: in the texts' order inside each copy, else as they stand."""
        if self.groups is not None:
            return (torch.arange(self.groups)[:, None] * self.texts + texts).flatten()
        return torch.isin(self.text, texts).nonzero().flatten()

    def take_texts(self, texts: Int[Tensor, " kept"]) -> "Rows":
        """Return the rows of these texts alone (`rows_of`), the texts in this order."""
        place = torch.full((self.texts,), -1)
        place[texts] = torch.arange(len(texts))
        rows = self.rows_of(texts)
        return self._chosen(rows, len(texts), place[self.text[rows]])

    def _chosen(self, rows: Tensor, texts: int, text: Tensor) -> "Rows":
        weights = self.weights
        if weights is not None and weights.shape[-3] > 1:
            weights = weights[..., rows.to(weights.device), :, :]
        told = None if self.told is None else self.told[rows.to(self.told.device)]
        return replace(self, texts=texts, text=text, index=self.index[rows], weights=weights, told=told)

    def joined(self, other: "Rows") -> "Rows":
        """Return these rows and behind them the other's, its texts behind these texts.

        Gates must be the same, and what is merged; rows without experts go with any that are merged.
        """
        if self.gates is not other.gates:
            raise RoutingError("rows with different gates are run apart.")
        merged = _joined_merged(self, other)
        names = tuple(dict.fromkeys((*self.names, *other.names)))
        k = max(self.index.shape[1], other.index.shape[1])
        index = torch.cat([_renamed(each.index, each.names, names, k) for each in (self, other)])
        text = torch.cat([self.text, other.text + self.texts])
        weights = _stacked_weights([(self.weights, self.count), (other.weights, other.count)], k)
        told = None if self.told is None or other.told is None else torch.cat([self.told, other.told])
        return Rows(names, self.texts + other.texts, text, index, weights, self.gates, merged, told)


BASE_ROWS = RowPlan((Group(),))
"""The base alone, once."""


def map_weights(rows: Rows, change: Callable[[Tensor], Tensor]) -> Rows:
    """Return the rows with their weights changed."""
    return rows if rows.weights is None else replace(rows, weights=change(rows.weights))


def dressed(rows: Rows, names: Sequence[str]) -> Rows:
    """Return the rows with more experts in each, at weight 1, beside what is merged.

    Raises RoutingError for rows that gates weigh, or that are run through one of these already.
    """
    if rows.gates:
        raise RoutingError("gates weigh all experts of a row, so that no other is worn beside them; use a router.")
    twice = [name for name in names if name in rows.names]
    if twice:
        raise RoutingError(f"a row is run through each expert once; {twice[0]!r} is worn by the base already.")
    first = len(rows.names)
    index = torch.arange(first, first + len(names)).expand(rows.count, -1)
    weights = None if rows.weights is None else torch.nn.functional.pad(rows.weights, (0, len(names)), value=1.0)
    return replace(rows, names=(*rows.names, *names), index=torch.cat([rows.index, index], dim=1), weights=weights)


def shift_right(
    values: Float[Tensor, "batch seq *rest"] | Int[Tensor, "batch seq *rest"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch seq *rest"] | Int[Tensor, "batch seq *rest"]:
    """Return right-padded values left-padded: the last of each row comes to stand at the end.

    >>> shift_right(torch.tensor([[1, 2, 0], [3, 4, 5]]), torch.tensor([2, 3]))
    tensor([[1, 1, 2],
            [3, 4, 5]])
    """
    seq = values.shape[1]
    source = (torch.arange(seq, device=values.device) - (seq - lengths)[:, None]).clamp(min=0)
    return values[torch.arange(values.shape[0], device=values.device)[:, None], source]


def shift_left(
    values: Float[Tensor, "batch seq *rest"], lengths: Int[Tensor, " batch"]
) -> Float[Tensor, "batch seq *rest"]:
    """Return left-padded values right-padded; the padding repeats the last value.

    >>> shift_left(torch.tensor([[9.0, 1.0, 2.0]]), torch.tensor([2]))
    tensor([[1., 2., 2.]])
    """
    seq = values.shape[1]
    source = (torch.arange(seq, device=values.device) + (seq - lengths)[:, None]).clamp(max=seq - 1)
    return values[torch.arange(values.shape[0], device=values.device)[:, None], source]


def left_padded_weights(rows: Rows, lengths: Int[Tensor, " batch"]) -> Rows:
    """Return the rows with weights by position moved to where left padding of their texts puts the tokens."""

    def change(weights: Tensor) -> Tensor:
        if weights.shape[-2] == 1:
            return weights
        many = lengths.to(weights.device)[rows.text.to(weights.device)]
        every = weights.expand(*weights.shape[:-3], rows.count, -1, -1)
        if every.ndim == 3:
            return shift_right(every, many)
        return torch.stack([shift_right(block, many) for block in every])

    return map_weights(rows, change)


def last_weights(rows: Rows, lengths: Int[Tensor, " batch"]) -> Rows:
    """Return the rows with the weights of each text's last position alone."""

    def change(weights: Tensor) -> Tensor:
        if weights.shape[-2] == 1:
            return weights
        last = (lengths.to(weights.device) - 1)[rows.text.to(weights.device)]
        every = weights.expand(*weights.shape[:-3], rows.count, -1, -1)
        return every[..., torch.arange(rows.count, device=weights.device), last, :][..., None, :]

    return map_weights(rows, change)


def _told(told: Tensor, texts: int) -> Tensor:
    """Return what rows are told; raises RoutingError unless it is a vector for each text."""
    if told.shape[0] != texts:
        raise RoutingError(f"the plan tells gates of {told.shape[0]} texts, {texts} are run.")
    return told


def _placed(group: Group, names: Sequence[str], texts: int, k: int) -> Tensor:
    """Return a group's index over the plan's names, `NOBODY` where it has fewer experts than another."""
    own = torch.arange(len(group.adapters)).expand(texts, -1) if group.index is None else group.index.cpu()
    if own.shape[0] != texts:
        raise RoutingError(f"the plan chooses experts for {own.shape[0]} texts, {texts} are run.")
    return _renamed(own, group.adapters, names, k)


def _renamed(index: Tensor, old: Sequence[str], new: Sequence[str], k: int) -> Tensor:
    """Return positions in `old` as positions in `new`, padded with `NOBODY` to k columns."""
    table = torch.tensor([*(new.index(name) for name in old), NOBODY])
    missing = index.new_full((index.shape[0], k - index.shape[1]), NOBODY)
    return torch.cat([table[index], missing], dim=1)


def _joined_merged(one: Rows, other: Rows) -> int:
    """Return how many first columns of both rows' are merged; raises RoutingError where they differ."""
    live = [rows for rows in (one, other) if rows.names]
    merged = {rows.merged for rows in live}
    if len(merged) < 2:
        return merged.pop() if merged else 0
    if all(rows.merged == rows.index.shape[1] for rows in live):
        return max(merged)
    raise RoutingError(f"rows of which {one.merged} and {other.merged} experts are merged are run apart.")


def _joined_weights(groups: Sequence[Group], texts: int, k: int) -> Tensor | None:
    if len(groups) == 1:
        return groups[0].weights
    return _stacked_weights([(group.weights, texts) for group in groups], k)


def _stacked_weights(parts: Sequence[tuple[Tensor | None, int]], k: int) -> Tensor | None:
    """Return the weights of parts of so many rows each under each other; a part without any weighs everybody 1."""
    given = [weights for weights, _ in parts if weights is not None]
    if not given:
        return None
    like = given[0]
    layers = max((weights.shape[0] for weights in given if weights.ndim == 4), default=None)
    seq = max(weights.shape[-2] for weights in given)
    spread = []
    for weights, rows in parts:
        own = (
            like.new_ones(1, 1, k) if weights is None else torch.nn.functional.pad(weights, (0, k - weights.shape[-1]))
        )
        own = own if layers is None or own.ndim == 4 else own[None]
        lead = () if layers is None else (layers,)
        spread.append(own.expand(*lead, rows, seq, k))
    return torch.cat(spread, dim=-3)
