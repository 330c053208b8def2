"""Row plans: which experts, alone or blended, a batch of texts is run through."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.routing import BASE


@dataclass(frozen=True, eq=False)
class Group:
    """The experts that one copy of every text is run through.

    adapters: attached names; none = the base alone.
    weights:  how much of each, per text and position read (either axis may be 1); None = 1 of each.
    """

    adapters: tuple[str, ...] = ()
    weights: Float[Tensor, "batch seq adapter"] | None = None

    def __post_init__(self) -> None:
        """Check that names are distinct and that there is one weight for each."""
        if len(set(self.adapters)) != len(self.adapters):
            raise RoutingError(f"a group names each expert once, got {self.adapters}.")
        if self.weights is not None and self.weights.shape[-1] != len(self.adapters):
            raise RoutingError(
                f"a group has one weight per expert: {len(self.adapters)} experts, {self.weights.shape[-1]} weights."
            )


@dataclass(frozen=True, eq=False)
class RowPlan:
    """The groups a batch is run through; rows are groups x texts, group-major.

    >>> RowPlan.each(("law", "base")).groups
    (Group(adapters=('law',), weights=None), Group(adapters=(), weights=None))
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


BASE_ROWS = RowPlan((Group(),))
"""The base alone, once."""


def map_weights(plan: RowPlan, change: Callable[[Tensor], Tensor]) -> RowPlan:
    """Return the plan with every group's weights changed."""
    return RowPlan(
        tuple(group if group.weights is None else Group(group.adapters, change(group.weights)) for group in plan.groups)
    )


def take_texts(plan: RowPlan, rows: Int[Tensor, " kept"]) -> RowPlan:
    """Return the plan for these texts alone."""
    return map_weights(plan, lambda weights: weights if weights.shape[0] == 1 else weights[rows.to(weights.device)])


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


def left_padded_weights(plan: RowPlan, lengths: Int[Tensor, " batch"]) -> RowPlan:
    """Return the plan with per-position weights moved to where left padding puts their tokens."""

    def change(weights: Tensor) -> Tensor:
        if weights.shape[1] == 1:
            return weights
        return shift_right(weights.expand(lengths.shape[0], -1, -1), lengths.to(weights.device))

    return map_weights(plan, change)


def last_weights(plan: RowPlan, lengths: Int[Tensor, " batch"]) -> RowPlan:
    """Return the plan with the weights of each text's last position alone."""

    def change(weights: Tensor) -> Tensor:
        if weights.shape[1] == 1:
            return weights
        last = (lengths - 1).to(weights.device)
        return weights.expand(lengths.shape[0], -1, -1)[torch.arange(lengths.shape[0]), last][:, None]

    return map_weights(plan, change)
