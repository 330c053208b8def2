"""Entry-wise merges of equally large tensors: trim, elect a sign, disjoint mean (TIES); drop and rescale (DARE)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def least_kept(sizes: Float[Tensor, "*shape"], density: float) -> float:
    """Return the smallest of the sizes that trimming keeps, 0 where all are kept; the sizes are reordered.

    >>> least_kept(torch.tensor([1.0, 3.0, 2.0, 0.5]), 0.5)
    2.0
    """
    many = sizes.numel()
    kept = min(max(1, round(density * many)), many)
    if kept == many:
        return 0.0
    ordered = sizes.flatten().cpu().numpy()
    ordered.partition(many - kept)
    return float(ordered[many - kept])


def trimmed(tensor: Float[Tensor, "*shape"], density: float) -> Float[Tensor, "*shape"]:
    """Return a tensor with all but the largest entries zero; entries as large as the last one kept are kept.

    density: the share kept, rounded, at least one entry.

    >>> trimmed(torch.tensor([1.0, -3.0, 2.0, 0.5]), 0.5)
    tensor([ 0., -3.,  2.,  0.])
    """
    return torch.where(tensor.abs() >= least_kept(tensor.abs(), density), tensor, 0.0)


def agreeing(
    tensors: Sequence[Float[Tensor, "*shape"]], weights: Sequence[float], *, disjoint_mean: bool
) -> Float[Tensor, "*shape"]:
    """Return the sum of the weighted tensors that have the elected sign, or the mean over those that do.

    gamma = sign(sum_e w_e t_e); the sum over the e with w_e t_e gamma > 0, or that by the sum of their |w_e|

    >>> agreeing([torch.tensor([1.0, 4.0]), torch.tensor([3.0, -1.0])], [1.0, 1.0], disjoint_mean=False)
    tensor([4., 4.])
    """
    weighted = [tensor * weight for tensor, weight in zip(tensors, weights, strict=True)]
    elected = sum(weighted[1:], weighted[0]).sign()
    total, share = torch.zeros_like(elected), torch.zeros_like(elected)
    for each, weight in zip(weighted, weights, strict=True):
        agrees = each * elected > 0
        total.add_(each * agrees)
        share.add_(agrees, alpha=abs(weight))
    return total.div_(share.clamp_(min=1e-12)) if disjoint_mean else total


def ties(tensors: Sequence[Float[Tensor, "*shape"]], density: float) -> Float[Tensor, "*shape"]:
    """Return the TIES merge: trim each, elect each entry's sign, average those of that sign.

    The mean over the e that agree, zero where there is none  [yadav2023ties].

    >>> ties([torch.tensor([1.0, 4.0]), torch.tensor([3.0, -1.0])], 1.0)
    tensor([2., 4.])
    """
    return agreeing([trimmed(tensor, density) for tensor in tensors], [1.0] * len(tensors), disjoint_mean=True)


def dropped(tensor: Float[Tensor, "*shape"], density: float, *, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Return a tensor with each entry kept by chance, and then divided by that chance: DARE  [yu2024dare].

    m ~ Bernoulli(density), m t / density: t in expectation.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> dropped(torch.ones(6), 0.5, generator=drawing)
    tensor([2., 0., 2., 2., 2., 0.])
    """
    if density == 1.0:
        return tensor
    kept = torch.rand(tensor.shape, generator=generator) < density
    return torch.where(kept.to(tensor.device), tensor / density, 0.0)
