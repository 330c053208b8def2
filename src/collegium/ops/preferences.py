"""Losses over preferences between two answers."""

import torch
from jaxtyping import Float
from torch import Tensor


def bradley_terry(
    chosen: Float[Tensor, " pair"],
    rejected: Float[Tensor, " pair"],
    *,
    margin: Float[Tensor, " pair"] | float = 0.0,
    smoothing: float = 0.0,
) -> Float[Tensor, " pair"]:
    """Return -log sigmoid(d) with d = chosen - rejected - margin, of each pair  [papers.md 1; Bradley & Terry 1952].

    smoothing: the probability s that a preference was noted the wrong way round: (1 - s) times the loss of d and s
    times that of -d.

    >>> bradley_terry(torch.tensor([1.0]), torch.tensor([1.0]))
    tensor([0.6931])
    """
    gap = chosen - rejected - margin
    right = torch.nn.functional.softplus(-gap)
    return right if not smoothing else (1 - smoothing) * right + smoothing * torch.nn.functional.softplus(gap)
