"""The direction in which a low-rank matrix acts most, from its factors alone."""

import torch
from jaxtyping import Float
from torch import Tensor


def top_right_singular(
    a: Float[Tensor, "*batch rank input"], b: Float[Tensor, "*batch output rank"]
) -> Float[Tensor, "*batch input"]:
    """Return the top right singular vector of B A, of length 1: the input that B A enlarges most; 0 where B A = 0.

    A^T = Q_a R_a,  B = Q_b R_b,  U S V^T = svd(R_b R_a^T),  v = Q_a V[:, 0]       [ostapenko2024arrow, section 4]

    Exact for any rank: the core is at most rank x rank, and B A itself is never formed. A singular vector has no sign
    of its own; here its largest entry is positive. It does not change when (A, B) becomes (R A, B R^-1). Where the two
    largest singular values are equal, it is one vector of the plane that they share.

    >>> a = torch.tensor([[3.0, 4.0], [0.0, 0.0]])
    >>> top_right_singular(a, torch.eye(2))
    tensor([0.6000, 0.8000])
    """
    left, core = _factors(a, b)
    top = torch.linalg.svd(core, full_matrices=False).Vh[..., 0, :]
    vector = (left @ top[..., None])[..., 0]
    largest = vector.gather(-1, vector.abs().argmax(dim=-1, keepdim=True))
    signed = torch.where(largest < 0, -vector, vector)
    nothing = core.abs().amax(dim=(-2, -1)) == 0
    return torch.where(nothing[..., None], 0.0, signed).to(a.dtype)


def _factors(a: Tensor, b: Tensor) -> tuple[Tensor, Tensor]:
    """Return Q_a, and the core R_b R_a^T, in float64: the vector is wanted to the last digit of float32."""
    q_a, r_a = torch.linalg.qr(a.double().mT)
    r_b = torch.linalg.qr(b.double()).R
    return q_a, r_b @ r_a.mT
