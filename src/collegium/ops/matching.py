"""Estimates over samples of a proposal q: of an unnormalised target P, its normaliser Z, and a policy pi.

All arguments are log-probabilities of whole texts, one per sample; P = 0 is `-inf`. p = P / Z.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def log_partition(log_target: Float[Tensor, " sample"], log_proposal: Float[Tensor, " sample"]) -> Float[Tensor, ""]:
    """Return log of the estimate of Z = sum_x P(x), the mean of P / q over samples of q; -inf where no sample has any.

    >>> log_partition(torch.tensor([0.2, 0.0]).log(), torch.tensor([0.5, 0.5]).log()).exp()
    tensor(0.2000)
    """
    return torch.logsumexp(log_target - log_proposal, 0) - math.log(len(log_target))


def normalised_weights(log_weights: Float[Tensor, " sample"]) -> Float[Tensor, " sample"]:
    """Return weights that sum to one; raises nothing: of weights that are all zero each is nan.

    >>> normalised_weights(torch.tensor([1.0, 3.0]).log())
    tensor([0.2500, 0.7500])
    """
    return log_weights.softmax(0)


def effective_sample_size(log_weights: Float[Tensor, " sample"]) -> float:
    """Return (sum w)^2 / sum w^2: how many equal weights scatter as these do; 0 where all are zero.

    >>> round(effective_sample_size(torch.zeros(4)), 6), round(effective_sample_size(torch.tensor([0.0, -50.0])), 6)
    (4.0, 1.0)
    """
    if not bool((log_weights > -math.inf).any()):
        return 0.0
    double = log_weights.double()
    return float((2 * torch.logsumexp(double, 0) - torch.logsumexp(2 * double, 0)).exp())


def kl_to_policy(
    log_target: Float[Tensor, " sample"],
    log_policy: Float[Tensor, " sample"],
    log_proposal: Float[Tensor, " sample"],
    log_z: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Return the estimate of KL(p || pi) = -ln Z + (1 / Z) mean_q[(P / q) (ln P - ln pi)], terms 0 where P = 0.

    >>> p, pi = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> round(float(kl_to_policy(p, pi, p, 0.0)), 4)
    0.1438
    """
    weights = (log_target - log_proposal - log_z).exp()
    gaps = torch.where(weights > 0, log_target - log_policy, 0.0)
    return (weights * gaps).mean() - log_z


def total_variation(
    log_target: Float[Tensor, " sample"],
    log_policy: Float[Tensor, " sample"],
    log_proposal: Float[Tensor, " sample"],
    log_z: Float[Tensor, ""] | float,
) -> Float[Tensor, ""]:
    """Return the estimate of the total variation of p and pi, 0.5 mean_q |pi / q - P / (Z q)|.

    >>> p, pi = torch.tensor([0.5, 0.5]).log(), torch.tensor([0.25, 0.75]).log()
    >>> round(float(total_variation(p, pi, p, 0.0)), 4)
    0.25
    """
    gaps = (log_policy - log_proposal).exp() - (log_target - log_proposal - log_z).exp()
    return 0.5 * gaps.abs().mean()


def weighted_mean(log_weights: Float[Tensor, " sample"], values: Float[Tensor, " sample"]) -> float:
    """Return sum_i w_i f_i / sum_i w_i, the self-normalised estimate of E_p[f].

    >>> round(weighted_mean(torch.tensor([1.0, 3.0]).log(), torch.tensor([0.0, 1.0])), 4)
    0.75
    """
    return float((normalised_weights(log_weights.double()) * values.double()).sum())
