"""The best low-rank factors of a matrix that comes as a thin product, or as itself."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Split:
    """The factors B A of the best approximation of a rank, equally long, and all singular values of the matrix."""

    b: Float[Tensor, "output rank"]
    a: Float[Tensor, "rank input"]
    values: Float[Tensor, " all_ranks"]


def split_product(b: Float[Tensor, "output inner"], a: Float[Tensor, "inner input"], rank: int) -> Split:
    """Return the best factors of the product B A, which is never formed.

    B = Q_b R_b and A^T = Q_a R_a; the core R_b R_a^T is as small as the inner axis, and
    svd(core) = U S V^T gives B A = (Q_b U) S (Q_a V)^T.

    >>> split_product(torch.tensor([[3.0], [4.0]]), torch.tensor([[2.0, 0.0, 0.0]]), 1).values
    tensor([10.])
    """
    q_b, r_b = torch.linalg.qr(b)
    q_a, r_a = torch.linalg.qr(a.T)
    u, values, v = torch.linalg.svd(r_b @ r_a.T, full_matrices=False)
    root = values[:rank].sqrt()
    return Split(q_b @ (u[:, :rank] * root), (root[:, None] * v[:rank]) @ q_a.T, values)


def split_matrix(matrix: Float[Tensor, "output input"], rank: int) -> Split:
    """Return the best factors of a matrix that has no thinner ones.

    >>> split_matrix(torch.tensor([[3.0, 0.0], [0.0, 4.0], [0.0, 0.0]]), 1).values
    tensor([4., 3.])
    """
    u, values, v = torch.linalg.svd(matrix, full_matrices=False)
    root = values[:rank].sqrt()
    return Split(u[:, :rank] * root, root[:, None] * v[:rank], values)


def lost_share(values: Float[Tensor, " all_ranks"], kept: int) -> float:
    """Return the relative Frobenius error of keeping the largest singular values alone.

    sqrt(sum_{i > kept} s_i^2 / sum_i s_i^2), the least that any matrix of that rank can have  [Eckart-Young]

    >>> round(lost_share(torch.tensor([4.0, 3.0]), 1), 4)
    0.6
    """
    squares = values.double().square()
    total = float(squares.sum())
    return (float(squares[kept:].sum()) / total) ** 0.5 if total > 0 else 0.0
