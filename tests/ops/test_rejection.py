"""Quasi-rejection sampling against exact sums, its monotone curves, and what it accepts."""

import itertools
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.randomness import generator
from collegium.ops.rejection import acceptance_rate, accepted, beta_for, distance, divergence

SEEDS = st.integers(0, 50)
COUNTS = torch.tensor([1, 2, 3, 4, 6])


def ratios(seed: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return log(P / q) of draws exactly in q's proportions, and P and q of the five texts, one of them forbidden."""
    target = torch.randn(5, generator=generator(seed, "rejection"), dtype=torch.float64)
    target[seed % 5] = -math.inf
    q = COUNTS.double() / COUNTS.sum()
    each = torch.arange(5).repeat_interleave(COUNTS)
    return (target - q.log())[each], target.exp(), q


@given(SEEDS, st.floats(-3, 3))
def test_estimates_equal_sums_over_all_texts(seed: int, log_beta: float) -> None:
    """Claim D10, second half."""
    log_ratios, target, q = ratios(seed)
    capped = torch.minimum(target, math.exp(log_beta) * q)
    p, p_beta = target / target.sum(), capped / capped.sum()
    assert acceptance_rate(log_ratios, log_beta) == pytest.approx(float(capped.sum()) / math.exp(log_beta))
    assert distance(log_ratios, log_beta) == pytest.approx(float(0.5 * (p - p_beta).abs().sum()))
    alive = p > 0
    assert divergence(log_ratios, log_beta) == pytest.approx(float((p * (p / p_beta).log())[alive].sum()), abs=1e-9)


@given(SEEDS)
def test_acceptance_and_distance_fall_as_beta_grows(seed: int) -> None:
    """Claim D10, first half."""
    log_ratios, _, _ = ratios(seed)
    betas = torch.linspace(-3, 4, 30).tolist()
    for curve in (acceptance_rate, distance, divergence):
        values = [curve(log_ratios, beta) for beta in betas]
        assert all(later <= earlier + 1e-12 for earlier, later in itertools.pairwise(values))
    assert distance(log_ratios, float(log_ratios.max())) == pytest.approx(0.0, abs=1e-12)


@given(SEEDS, st.floats(0.05, 0.8))
def test_a_beta_is_found_for_a_rate(seed: int, rate: float) -> None:
    log_ratios, _, _ = ratios(seed)
    if acceptance_rate(log_ratios, -80.0) >= rate:
        assert acceptance_rate(log_ratios, beta_for(log_ratios, rate)) == pytest.approx(rate, abs=1e-6)


def test_what_is_accepted_is_the_target() -> None:
    random = generator(0, "accepted")
    target, q = torch.tensor([0.1, 0.2, 0.7]), torch.tensor([0.5, 0.3, 0.2])
    drawn = torch.multinomial(q, 60_000, replacement=True, generator=random)
    kept = drawn[accepted((target / q).log()[drawn], math.log(3.5), random=random)]
    found = torch.bincount(kept, minlength=3) / len(kept)
    torch.testing.assert_close(found, target, atol=0.012, rtol=0)


def test_nothing_to_accept_has_no_beta() -> None:
    assert math.isnan(beta_for(torch.full((3,), -math.inf), 0.1))
