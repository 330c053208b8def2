"""Estimates of a target and a policy: exact where every text is drawn as often as the proposal says."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.randomness import generator
from collegium.ops.matching import (
    effective_sample_size,
    kl_to_policy,
    log_partition,
    normalised_weights,
    total_variation,
    weighted_mean,
)

COUNTS = torch.tensor([1, 2, 3, 4, 6])
"""How often each of five texts is drawn: the proposal is exactly in these proportions."""


def drawn(seed: int) -> tuple[torch.Tensor, ...]:
    """Return log P (one text forbidden), log pi, log q of every draw, and log Z."""
    random = generator(seed, "matching")
    target = torch.randn(5, generator=random, dtype=torch.float64)
    target[seed % 5] = -math.inf
    policy = torch.randn(5, generator=random, dtype=torch.float64).log_softmax(0)
    proposal = (COUNTS.double() / COUNTS.sum()).log()
    each = torch.arange(5).repeat_interleave(COUNTS)
    return target[each], policy[each], proposal[each], torch.logsumexp(target, 0), target, policy


@given(st.integers(0, 30))
def test_estimates_equal_sums_over_all_texts(seed: int) -> None:
    log_target, log_policy, log_proposal, log_z, target, policy = drawn(seed)
    p = (target - log_z).exp()
    torch.testing.assert_close(log_partition(log_target, log_proposal), log_z)
    kept = p > 0
    kl = (p[kept] * (p[kept].log() - policy[kept])).sum()
    torch.testing.assert_close(kl_to_policy(log_target, log_policy, log_proposal, log_z), kl)
    tv = 0.5 * (p - policy.exp()).abs().sum()
    torch.testing.assert_close(total_variation(log_target, log_policy, log_proposal, log_z), tv)
    values = torch.arange(5).double()
    each = torch.arange(5).repeat_interleave(COUNTS)
    assert weighted_mean(log_target - log_proposal, values[each]) == pytest.approx(float((p * values).sum()))


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.floats(-100, 100))
def test_effective_sample_size_lies_between_one_and_all_and_knows_no_scale(values: list[float], shift: float) -> None:
    weights = torch.tensor(values, dtype=torch.float64)
    size = effective_sample_size(weights)
    assert 1 - 1e-9 <= size <= len(values) + 1e-9
    assert effective_sample_size(weights + shift) == pytest.approx(size)


def test_no_weight_at_all_is_an_effective_size_of_zero() -> None:
    assert effective_sample_size(torch.full((3,), -math.inf)) == 0.0
    assert normalised_weights(torch.full((3,), -math.inf)).isnan().all()
    assert float(log_partition(torch.full((3,), -math.inf), torch.zeros(3))) == -math.inf
