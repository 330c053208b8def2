"""Divergences of a policy pi from a target p, each as the pseudo-reward whose policy gradient lowers it.

With t = pi / p, D_f = E_p[f(t)] and grad D_f = E_pi[f'(t) grad log pi]  [Go et al. 2023, theorem 1], so that a policy
gradient with the reward -f'(t) goes down D_f. Everything is a function of log t: +inf where p = 0.
"""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

LogRatios = Float[Tensor, " sample"]


@dataclass(frozen=True)
class Divergence:
    """A row of `DIVERGENCES`.

    reward:  log t -> -f'(t), up to a constant. value: log t -> f(t), of which the mean under p is the divergence.
    formula: how it is written. bounded: whether it is finite where p = 0 and pi is not, as with hard constraints.
    """

    reward: Callable[[LogRatios], LogRatios]
    value: Callable[[LogRatios], LogRatios]
    formula: str
    bounded: bool


def _jensen_shannon(log_ratios: LogRatios) -> LogRatios:
    """Return f(t) = (t ln t - (1 + t) ln((1 + t) / 2)) / 2."""
    half = torch.nn.functional.softplus(log_ratios) - math.log(2)
    return 0.5 * (log_ratios.exp() * (log_ratios - half) - half)


DIVERGENCES: Mapping[str, Divergence] = {
    "forward_kl": Divergence(lambda t: (-t).exp(), lambda t: -t, "KL(p || pi)", bounded=True),
    "reverse_kl": Divergence(lambda t: -t - 1, lambda t: t.exp() * t, "KL(pi || p)", bounded=False),
    "total_variation": Divergence(
        lambda t: -0.5 * t.sign(), lambda t: 0.5 * torch.expm1(t).abs(), "TV(pi, p)", bounded=True
    ),
    "jensen_shannon": Divergence(
        lambda t: 0.5 * (torch.nn.functional.softplus(-t) - math.log(2)), _jensen_shannon, "JS(pi, p)", bounded=True
    ),
    "chi2": Divergence(lambda t: (-2 * t).exp(), lambda t: torch.expm1(-t), "chi2(p || pi)", bounded=True),
    "reverse_chi2": Divergence(
        lambda t: -2 * torch.expm1(t), lambda t: torch.expm1(t).square(), "chi2(pi || p)", bounded=False
    ),
}
"""Name -> row. Generators: forward KL -ln t, reverse KL t ln t, total variation |t - 1| / 2, chi2(p || pi) 1/t - 1,
chi2(pi || p) (t - 1)^2."""
