"""Entry-wise merges of equally large tensors: trim, elect a sign, disjoint mean (TIES); drop and rescale (DARE)."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def trimmed(tensor: Float[Tensor, "*shape"], density: float) -> Float[Tensor, "*shape"]:
    """Return a tensor with all but the largest entries zero; entries as large as the last one kept are kept.

    density: the share kept, rounded, at least one entry.

    >>> trimmed(torch.tensor([1.0, -3.0, 2.0, 0.5]), 0.5)
    tensor([ 0., -3.,  2.,  0.])
    """
    size = tensor.abs().flatten()
    kept = min(max(1, round(density * size.numel())), size.numel())
    least = size.kthvalue(size.numel() - kept + 1).values
    return torch.where(tensor.abs() >= least, tensor, 0.0)


def ties(tensors: Sequence[Float[Tensor, "*shape"]], density: float) -> Float[Tensor, "*shape"]:
    """Return the TIES merge: trim each, elect each entry's sign, average those of that sign.

    gamma = sign(sum_e t_e); the mean over the e with t_e gamma > 0, zero where there is none  [yadav2023ties]

    >>> ties([torch.tensor([1.0, 4.0]), torch.tensor([3.0, -1.0])], 1.0)
    tensor([2., 4.])
    """
    stacked = torch.stack([trimmed(tensor, density) for tensor in tensors])
    elected = stacked.sum(0).sign()
    agreeing = stacked * elected > 0
    return torch.where(agreeing, stacked, 0.0).sum(0) / agreeing.sum(0).clamp(min=1)


def dropped(tensor: Float[Tensor, "*shape"], density: float, *, generator: torch.Generator) -> Float[Tensor, "*shape"]:
    """Return a tensor with each entry kept by chance, and then divided by that chance: DARE  [yu2024dare].

    m ~ Bernoulli(density), m t / density: t in expectation.

    >>> drawing = torch.Generator().manual_seed(0)
    >>> dropped(torch.ones(6), 0.5, generator=drawing)
    tensor([2., 0., 2., 2., 2., 0.])
    """
    kept = torch.rand(tensor.shape, generator=generator) < density
    return torch.where(kept.to(tensor.device), tensor / density, 0.0)
