"""Low-rank changes by the experts that each token chose, at places that read one input: three ways to one sum.

change[t] = sum_j w[t, j] (x[t] A_e) B_e  with e = index[t, j], at each place

dense:    all experts in two products, those not chosen at weight 0; for few experts.
gathered: the chosen matrices are copied to each token; for few tokens.
grouped:  tokens are sorted by expert, each of which multiplies its own; for many of both.

The first products are made when a change is made, where that pays for all places at once; `add` makes the second.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grouped_mm

_PRODUCT_RATE = 45e9
_GROUPED_RATE = 25e9
_READ_RATE = 5e9
_COPY_RATE = 4e9
_MOVED_RATE = 6e9
_GATHER_SECONDS = 5e-6
_GROUP_SECONDS = 50e-6
"""What one core does: multiplications a second in one large product and in many small ones, numbers of a matrix read
in place, read by way of a copy, and moved a second, and what gathering and grouping cost before they begin. Measured on
the development machine; only their proportions decide."""


@dataclass(frozen=True, eq=False)
class Firsts:
    """The first matrices at places that read one input. start: where each place's experts begin among those of all."""

    a: Float[Tensor, "place expert rank input"]
    start: Int[Tensor, "place one one"]

    @staticmethod
    def of(a: Float[Tensor, "place expert rank input"]) -> "Firsts":
        """Return them as such."""
        return Firsts(a, torch.arange(a.shape[0], device=a.device).view(-1, 1, 1) * a.shape[1])


@dataclass(frozen=True, eq=False)
class Dense:
    """The weighted first products of all experts."""

    thin: Float[Tensor, "place token column"]

    def add(
        self, output: Float[Tensor, "token output"], place: int, b: Float[Tensor, "expert rank output"]
    ) -> Float[Tensor, "token output"]:
        """Add a place's change to its output, in place, and return it."""
        return output.addmm_(self.thin[place], b.flatten(0, 1))


@dataclass(frozen=True, eq=False)
class Gathered:
    """The weighted first products of each token's own experts. chosen: who they are, token after token."""

    thin: Float[Tensor, "place token one column"]
    chosen: Int[Tensor, "place choice"]

    def add(
        self, output: Float[Tensor, "token output"], place: int, b: Float[Tensor, "expert rank output"]
    ) -> Float[Tensor, "token output"]:
        """Add a place's change to its output, in place, and return it."""
        thin = self.thin[place]
        own = b.index_select(0, self.chosen[place]).view(len(thin), thin.shape[2], -1)
        output.unsqueeze(1).baddbmm_(thin, own)
        return output


@dataclass(frozen=True, eq=False)
class Grouped:
    """Choices sorted by expert. token, share: whose each is, and its weight; ends: where each expert's end."""

    x: Float[Tensor, "token input"]
    a: Float[Tensor, "place expert rank input"]
    token: Int[Tensor, "place choice"]
    share: Float[Tensor, "place choice one"]
    ends: Int[Tensor, "place expert"]

    def add(
        self, output: Float[Tensor, "token output"], place: int, b: Float[Tensor, "expert rank output"]
    ) -> Float[Tensor, "token output"]:
        """Add a place's change to its output, in place, and return it."""
        token, ends = self.token[place], self.ends[place]
        thin = grouped_mm(self.x.index_select(0, token), self.a[place].transpose(1, 2), offs=ends) * self.share[place]
        return output.index_add_(0, token, grouped_mm(thin, b, offs=ends))


Change = Dense | Gathered | Grouped
"""What the chosen experts change at some places."""


def dense(
    x: Float[Tensor, "token input"],
    first: Firsts,
    weights: Float[Tensor, "place token k"],
    index: Int[Tensor, "place token k"] | None,
) -> Dense:
    """Return the change by way of all experts; index None means that there is a weight for each of them, in order.

    >>> first = Firsts.of(torch.ones(1, 2, 4, 4))
    >>> change = dense(torch.ones(1, 4), first, torch.tensor([[[0.5]]]), torch.tensor([[[1]]]))
    >>> change.add(torch.zeros(1, 4), 0, torch.ones(2, 4, 4))
    tensor([[8., 8., 8., 8.]])
    """
    if index is not None:
        weights = weights.new_zeros(*weights.shape[:-1], first.a.shape[1]).scatter(-1, index, weights)
    thin = x @ first.a.flatten(1, 2).transpose(1, 2)
    return Dense((thin.view(*weights.shape, -1) * weights.unsqueeze(-1)).flatten(2))


def gathered(
    x: Float[Tensor, "token input"],
    first: Firsts,
    weights: Float[Tensor, "place token k"],
    index: Int[Tensor, "place token k"],
) -> Gathered:
    """Return the change by way of copies of each token's own matrices.

    >>> first = Firsts.of(torch.ones(1, 2, 4, 4))
    >>> change = gathered(torch.ones(1, 4), first, torch.tensor([[[0.5]]]), torch.tensor([[[1]]]))
    >>> change.add(torch.zeros(1, 4), 0, torch.ones(2, 4, 4))
    tensor([[8., 8., 8., 8.]])
    """
    (places, tokens, k), (rank, width) = index.shape, first.a.shape[2:]
    flat = index
    if places > 1:
        flat, x = index + first.start, torch.cat((x,) * places)
    own = first.a.view(-1, rank, width).index_select(0, flat.view(-1)).view(-1, k * rank, width)
    thin = torch.bmm(x.unsqueeze(1), own.transpose(1, 2)).view(places, tokens, k, rank) * weights.unsqueeze(-1)
    return Gathered(thin.view(places, tokens, 1, k * rank), index.view(places, -1))


def grouped(
    x: Float[Tensor, "token input"],
    first: Firsts,
    weights: Float[Tensor, "place token k"],
    index: Int[Tensor, "place token k"],
) -> Grouped:
    """Return the change by way of tokens sorted by expert. Rank, inputs and outputs fill 16 bytes each.

    >>> first = Firsts.of(torch.ones(1, 2, 4, 4))
    >>> change = grouped(torch.ones(1, 4), first, torch.tensor([[[0.5]]]), torch.tensor([[[1]]]))
    >>> change.add(torch.zeros(1, 4), 0, torch.ones(2, 4, 4))
    tensor([[8., 8., 8., 8.]])
    """
    (places, _, k), experts = index.shape, first.a.shape[1]
    chosen, order = index.view(places, -1).sort(dim=-1, stable=True)
    everyone = torch.arange(experts, device=x.device).repeat(places, 1)
    ends = torch.searchsorted(chosen, everyone, right=True, out_int32=True)
    share = weights.view(places, -1).gather(1, order).unsqueeze(-1)
    return Grouped(x, first.a, order // k, share, ends)


def cheapest(
    *, tokens: int, chosen: int, experts: int, rank: int, inputs: int, outputs: int, number_bytes: int = 4
) -> Callable[[Tensor, Firsts, Tensor, Tensor], Change]:
    """Return the way that is fastest at a place of such sizes.

    Never `grouped` where rows of a matrix do not fill 16 bytes each, which torch's grouped product asks for, nor under
    a compiler, which does not know that product in float32.

    >>> cheapest(tokens=512, chosen=2, experts=64, rank=8, inputs=256, outputs=256).__name__
    'grouped'
    >>> cheapest(tokens=4, chosen=2, experts=64, rank=8, inputs=256, outputs=256).__name__
    'gathered'
    >>> cheapest(tokens=512, chosen=2, experts=4, rank=8, inputs=256, outputs=256).__name__
    'dense'
    """
    matrix, pairs = rank * (inputs + outputs), tokens * chosen
    by_all = experts * matrix * (tokens / _PRODUCT_RATE + 1 / _READ_RATE)
    by_copies = pairs * matrix * (1 / _PRODUCT_RATE + 1 / _COPY_RATE) + _GATHER_SECONDS
    moved = pairs * (inputs + 2 * outputs)
    by_groups = pairs * matrix / _GROUPED_RATE + moved / _MOVED_RATE + experts * matrix / _READ_RATE + _GROUP_SECONDS
    ragged = number_bytes > 4 or any(size * number_bytes % 16 for size in (rank, inputs, outputs))
    if ragged or torch.compiler.is_compiling():
        by_groups = float("inf")
    if by_groups < min(by_all, by_copies):
        return grouped
    return gathered if by_copies < by_all else dense
