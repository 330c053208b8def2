"""Bayes' rule over experts, in log space."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def posterior(
    log_prior: Float[Tensor, "*#batch expert"], log_likelihood: Float[Tensor, "*#batch expert"]
) -> Float[Tensor, "*batch expert"]:
    """Return the log-posterior over experts, given each expert's log-likelihood of the text so far.

    log P(j | x_<t) = log P(j) + log p(x_<t | j) - logsumexp_k(log P(k) + log p(x_<t | k))   [DEMix]

    >>> posterior(torch.zeros(2), torch.tensor([[0.0, -1.0]])).exp()
    tensor([[0.7311, 0.2689]])
    """
    return (log_prior + log_likelihood).log_softmax(dim=-1)


def running_log_likelihood(
    log_likelihoods: Float[Tensor, "batch seq expert"],
    start: Float[Tensor, "batch expert"],
    *,
    decay: float = 1.0,
    padding: Bool[Tensor, "batch seq"] | None = None,
) -> Float[Tensor, "batch seq expert"]:
    """Return each expert's log-likelihood of the text up to and including each token.

    r_t = decay * r_{t-1} + log p(x_t | x_<t, j), with r_0 = start. decay 1 is the cumulative posterior of the paper,
    0 the one-token posterior of its public code, which breaks the regret bound.

    Where `padding` is true the token moves nothing. Tokens are added one after another, so that reading them at once
    or one by one is the same to the last bit, and in float64, so that a long text loses nothing to rounding.

    >>> running_log_likelihood(torch.tensor([[[-1.0], [-2.0]]]), torch.zeros(1, 1))
    tensor([[[-1.],
             [-3.]]], dtype=torch.float64)
    """
    running, rows = start.double(), []
    for position in range(log_likelihoods.shape[1]):
        moved = decay * running + log_likelihoods[:, position]
        running = moved if padding is None else torch.where(padding[:, position, None], running, moved)
        rows.append(running)
    return torch.stack(rows, dim=1) if rows else log_likelihoods.double()


def mix_log_probs(
    log_weights: Float[Tensor, "*#batch expert"], log_probs: Float[Tensor, "*#batch expert"]
) -> Float[Tensor, "*batch"]:
    """Return log sum_j w_j p_j along the last axis.

    >>> mix_log_probs(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.4]).log()).exp()
    tensor(0.3000)
    """
    return torch.logsumexp(log_weights + log_probs, dim=-1)
