"""Losses that keep a sparse mixture's experts in use: an even load, or a choice that says which domain is read."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def balance_loss(
    probabilities: Float[Tensor, "*token expert"],
    index: Int[Tensor, "*token k"] | None,
    *,
    read: Bool[Tensor, "*token"] | None = None,
) -> Float[Tensor, ""]:
    """Return E sum_e share_e P_e: 1 where all E experts are used evenly, E where one is used alone  [fedus2022switch].

    share_e: of all tokens' choices, how many fell on e; they sum to 1 for any k. P_e: mean probability of e.
    The gradient flows through P alone, and lowers the probability of whoever is chosen more often than others. With
    shares as the probabilities say it is E sum_e P_e^2, least where all P_e are equal; with other shares it may be
    below 1.

    index: the k experts of each token, None = all of them. read: tokens that count, None = all of them.

    >>> even = torch.full((4, 2), 0.5)
    >>> balance_loss(even, torch.tensor([[0], [1], [0], [1]]))
    tensor(1.)
    >>> balance_loss(torch.tensor([[1.0, 0.0]]), torch.tensor([[0]]))
    tensor(2.)
    """
    counted = _counted(probabilities, read)
    experts = counted.shape[-1]
    if index is None:
        shares = counted.new_full((experts,), 1 / experts)
    else:
        chosen = _counted(index, read).flatten().bincount(minlength=experts)
        shares = chosen.to(counted) / chosen.sum().clamp(min=1)
    return experts * (shares * counted.sum(0) / max(1, len(counted))).sum()


def mutual_information_loss(
    probabilities: Float[Tensor, "*token expert"],
    domain: Int[Tensor, "*token"],
    *,
    read: Bool[Tensor, "*token"] | None = None,
) -> Float[Tensor, ""]:
    """Return -I(domain; expert) in nats: -log n where each of n equally frequent domains has an expert of its own.

    p(d, e) = mean over tokens of 1[token is of d] p(e | token);  I = sum p(d, e) log(p(d, e) / (p(d) p(e)))
    [chen2023modsquad]. It is 0 where the choice says nothing of the domain. Departure: over tokens read, each counting
    once, where the paper weighs tasks by hand.

    domain: of each token, from 0. read: tokens that count, None = all of them.

    >>> one_hot = torch.eye(2)
    >>> mutual_information_loss(one_hot, torch.tensor([0, 1]))
    tensor(-0.6931)
    """
    counted, domains = _counted(probabilities, read), _counted(domain.unsqueeze(-1), read).squeeze(-1)
    if not len(counted):
        return counted.sum()
    member = torch.nn.functional.one_hot(domains).to(counted)
    joint = member.T @ counted / len(counted)
    return _entropy(joint) - _entropy(joint.sum(0)) - _entropy(joint.sum(1))


def _entropy(probabilities: Tensor) -> Tensor:
    """Return -sum p log p; where p is 0 the term is, and its slope is finite."""
    least = torch.finfo(probabilities.dtype).tiny
    return -(probabilities * probabilities.clamp(min=least).log()).sum()


def _counted(values: Tensor, read: Tensor | None) -> Tensor:
    """Return the values of tokens that count, one a row."""
    return values.reshape(-1, values.shape[-1]) if read is None else values[read]
