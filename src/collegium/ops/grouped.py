"""Low-rank products of the experts that each token chose, and of no others: tokens are grouped by expert.

change[t] = sum_j w[t, j] (x[t] A_e) B_e  with e = index[t, j]
"""

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import grouped_mm

_DENSE_RATE = 45e9
_GROUPED_RATE = 25e9
_MOVED_RATE = 6e9
_START_SECONDS = 60e-6
"""What one core does: multiplications a second in one large product and in many small ones, numbers moved a second,
and what grouping costs before it begins. Measured on the development machine; only their proportions decide."""


def choosing_pays(
    *, tokens: int, chosen: int, experts: int, rank: int, inputs: int, outputs: int, number_bytes: int = 4
) -> bool:
    """Return whether computing the chosen experts alone is faster than computing all of them in two large products.

    No where rows of a matrix do not fill 16 bytes each, which torch's grouped product asks for.

    >>> choosing_pays(tokens=512, chosen=2, experts=64, rank=8, inputs=256, outputs=256)
    True
    >>> choosing_pays(tokens=1, chosen=2, experts=4, rank=8, inputs=256, outputs=256)
    False
    """
    if number_bytes > 4 or any(size * number_bytes % 16 for size in (rank, inputs, outputs)):
        return False
    work = tokens * rank * (inputs + outputs)
    moved = tokens * chosen * (inputs + 2 * outputs)
    grouped = chosen * work / _GROUPED_RATE + moved / _MOVED_RATE + _START_SECONDS
    return grouped < experts * work / _DENSE_RATE


def grouped_low_rank(
    x: Float[Tensor, "token input"],
    a: Float[Tensor, "expert input rank"],
    b: Float[Tensor, "expert rank output"],
    weights: Float[Tensor, "token k"],
    index: Int[Tensor, "token k"],
) -> Float[Tensor, "token output"]:
    """Return each token's weighted change by the experts it chose; see the module.

    Rank, inputs and outputs fill 16 bytes each (`choosing_pays` says no to others).

    >>> ones = torch.ones(1, 4, 4)
    >>> grouped_low_rank(torch.ones(1, 4), ones, ones, torch.tensor([[0.5]]), torch.tensor([[0]]))
    tensor([[8., 8., 8., 8.]])
    """
    return _grouped(x, a, b, weights, index)


@torch.library.custom_op("collegium::grouped_low_rank", mutates_args=())
def _grouped(x: Tensor, a: Tensor, b: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    token, order, ends = _grouping(index, a.shape[0])
    thin = grouped_mm(x.index_select(0, token), a, offs=ends) * weights.flatten()[order, None]
    return x.new_zeros(x.shape[0], b.shape[2]).index_add_(0, token, grouped_mm(thin, b, offs=ends))


@_grouped.register_fake
def _shape_only(x: Tensor, a: Tensor, b: Tensor, weights: Tensor, index: Tensor) -> Tensor:
    return x.new_empty(x.shape[0], b.shape[2])


def _keep(ctx: Any, inputs: tuple[Tensor, ...], output: Tensor) -> None:  # noqa: ANN401 - torch's context
    ctx.save_for_backward(*inputs)


def _slopes(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 - torch's context
    x, a, b, weights, index = ctx.saved_tensors
    token, order, ends = _grouping(index, a.shape[0])
    read, above = x.index_select(0, token), slope.index_select(0, token)
    share = weights.flatten()[order, None]
    thin = grouped_mm(read, a, offs=ends)
    below = grouped_mm(above, b.transpose(1, 2), offs=ends)
    of_weights = torch.zeros_like(weights).flatten().index_copy_(0, order, (thin * below).sum(-1)).view_as(weights)
    below = share * below
    of_x = torch.zeros_like(x).index_add_(0, token, grouped_mm(below, a.transpose(1, 2), offs=ends))
    of_a = grouped_mm(read.T, below, offs=ends) if ctx.needs_input_grad[1] else None
    of_b = grouped_mm((share * thin).T, above, offs=ends) if ctx.needs_input_grad[2] else None
    return of_x, of_a, of_b, of_weights, None


_grouped.register_autograd(_slopes, setup_context=_keep)


def _grouping(index: Tensor, experts: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return each choice's token in the order of experts, that order, and where each expert's choices end."""
    flat = index.flatten()
    order = flat.argsort(stable=True)
    ends = flat.bincount(minlength=experts).cumsum(0).to(torch.int32)
    return order // index.shape[1], order, ends
