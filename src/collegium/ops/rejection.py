"""Quasi-rejection sampling: accept x ~ q with probability min(1, P(x) / (beta q(x)))  [Eikema et al. 2022].

What is accepted is distributed as p_beta = min(P, beta q) / Z_beta, which comes to p as beta grows, while fewer texts
are accepted: Z_beta / beta of them. Everything is estimated from texts of q alone; ratios are log(P / q) of each.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor

LogRatios = Float[Tensor, " sample"]


def acceptance_rate(log_ratios: LogRatios, log_beta: float) -> float:
    """Return the share of texts that are accepted, mean_q min(1, P / (beta q)).

    >>> round(acceptance_rate(torch.tensor([0.5, 2.0]).log(), 0.0), 4)
    0.75
    """
    return float((log_ratios.double() - log_beta).clamp(max=0.0).exp().mean())


def accepted(log_ratios: LogRatios, log_beta: float, *, random: torch.Generator) -> Bool[Tensor, " sample"]:
    """Return which texts are accepted."""
    drawn = torch.rand(len(log_ratios), generator=random, dtype=torch.float64)
    return drawn < (log_ratios.double() - log_beta).clamp(max=0.0).exp()


def distance(log_ratios: LogRatios, log_beta: float) -> float:
    """Return the total variation of p and p_beta, 0.5 mean_q |P / (Z q) - min(P / q, beta) / Z_beta|.

    >>> distance(torch.tensor([0.5, 2.0]).log(), 5.0)
    0.0
    """
    ratios = log_ratios.double()
    capped = ratios.clamp(max=log_beta)
    return float(0.5 * (_share(ratios) - _share(capped)).abs().sum())


def divergence(log_ratios: LogRatios, log_beta: float) -> float:
    """Return KL(p || p_beta), mean_q[P / (Z q) (ln P / Z - ln min(P, beta q) / Z_beta)]."""
    ratios = log_ratios.double()
    share, capped = _share(ratios), _share(ratios.clamp(max=log_beta))
    return float(torch.where(share > 0, share * (share.log() - capped.log()), 0.0).sum())


def beta_for(log_ratios: LogRatios, rate: float) -> float:
    """Return the largest log beta at which at least a share `rate` of texts is accepted; nan where no text has any P.

    >>> round(beta_for(torch.tensor([0.5, 4.0]).log(), 0.625), 4) == round(math.log(2), 4)
    True
    """
    ratios = log_ratios.double()
    alive = ratios[ratios > -math.inf]
    if not len(alive):
        return math.nan
    low, high = float(alive.min()) - 60.0, float(alive.max()) + 60.0
    for _ in range(200):
        middle = (low + high) / 2
        low, high = (middle, high) if acceptance_rate(ratios, middle) >= rate else (low, middle)
    return low


def _share(log_weights: LogRatios) -> LogRatios:
    return log_weights.softmax(0)
