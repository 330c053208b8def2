"""Divergences against sums over an enumerated space, values and gradients."""

import math

import pytest
import torch

from collegium.core.randomness import generator
from collegium.ops.divergences import DIVERGENCES

TEXTS = 40


def distributions(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a target and of a policy over `TEXTS` texts."""
    drawn = torch.randn(2, TEXTS, generator=generator(seed, "divergences"), dtype=torch.float64)
    return drawn[0].log_softmax(0), drawn[1]


def exact(name: str, log_p: torch.Tensor, log_pi: torch.Tensor) -> torch.Tensor:
    p, pi = log_p.exp(), log_pi.exp()
    middle = ((p + pi) / 2).log()
    return {
        "forward_kl": lambda: (p * (log_p - log_pi)).sum(),
        "reverse_kl": lambda: (pi * (log_pi - log_p)).sum(),
        "total_variation": lambda: 0.5 * (p - pi).abs().sum(),
        "jensen_shannon": lambda: 0.5 * (p * (log_p - middle)).sum() + 0.5 * (pi * (log_pi - middle)).sum(),
        "chi2": lambda: (p.square() / pi).sum() - 1,
        "reverse_chi2": lambda: (pi.square() / p).sum() - 1,
    }[name]()


@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_is_the_divergence(name: str) -> None:
    log_p, logits = distributions()
    log_pi = logits.log_softmax(0)
    found = (log_p.exp() * DIVERGENCES[name].value(log_pi - log_p)).sum()
    torch.testing.assert_close(found, exact(name, log_p, log_pi), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_policy_gradient_with_the_pseudo_reward_goes_down_the_divergence(name: str) -> None:
    log_p, logits = distributions(1)
    logits.requires_grad_()
    log_pi = logits.log_softmax(0)
    (wanted,) = torch.autograd.grad(exact(name, log_p, log_pi), logits, retain_graph=True)
    reward = DIVERGENCES[name].reward(log_pi - log_p).detach()
    (found,) = torch.autograd.grad(-(log_pi.exp().detach() * reward * log_pi).sum(), logits)
    torch.testing.assert_close(found, wanted, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_perfect_policy_has_divergence_zero_and_equal_rewards(name: str) -> None:
    log_p, _ = distributions()
    nothing = torch.zeros_like(log_p)
    assert float((log_p.exp() * DIVERGENCES[name].value(nothing)).sum()) == pytest.approx(0.0, abs=1e-12)
    assert float(DIVERGENCES[name].reward(nothing).std()) == 0.0


@pytest.mark.parametrize("name", DIVERGENCES)
def test_what_the_target_forbids_is_punished_as_the_table_says(name: str) -> None:
    forbidden = DIVERGENCES[name].reward(torch.tensor([math.inf]))
    told = {"forward_kl": 0.0, "chi2": 0.0, "total_variation": -0.5, "jensen_shannon": -0.5 * math.log(2)}
    assert float(forbidden) == pytest.approx(told.get(name, -math.inf))
    assert DIVERGENCES[name].bounded == bool(forbidden.isfinite())
