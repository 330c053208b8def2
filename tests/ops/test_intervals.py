"""Intervals: known values, coverage, pairing, and broken versions that are refused."""

import math

import pytest
import torch

from collegium.ops.intervals import (
    Interval,
    bootstrap_interval,
    perplexity_difference_interval,
    perplexity_interval,
    student_interval,
)


def normal_quantile_interval(differences: torch.Tensor) -> Interval:
    """Broken: the normal quantile instead of Student's, too narrow for few seeds."""
    mean, half = float(differences.mean()), 1.96 * float(differences.std()) / math.sqrt(len(differences))
    return Interval(mean - half, mean, mean + half)


def coverage(interval, *, seeds: int, trials: int = 2000) -> float:
    draws = torch.randn(trials, seeds, generator=torch.Generator().manual_seed(0))
    return sum(each.low <= 0 <= each.high for each in map(interval, draws)) / trials


def test_student_interval_equals_the_table():
    interval = student_interval(torch.tensor([1.0, 2.0, 3.0]))
    half = 4.302652729911275 / math.sqrt(3)
    assert interval.low == pytest.approx(2 - half)
    assert interval.high == pytest.approx(2 + half)


def test_student_interval_covers_95_percent_with_three_seeds_and_the_normal_one_does_not():
    assert coverage(student_interval, seeds=3) == pytest.approx(0.95, abs=0.015)
    assert coverage(normal_quantile_interval, seeds=3) < 0.87


def test_one_seed_bounds_nothing():
    interval = student_interval(torch.tensor([3.0]))
    assert (interval.low, interval.estimate, interval.high) == (-math.inf, 3.0, math.inf)
    assert bootstrap_interval(torch.tensor([3.0])).high == math.inf


def test_bootstrap_of_a_mean_is_close_to_the_normal_interval():
    values = torch.randn(400, generator=torch.Generator().manual_seed(1))
    interval, half = bootstrap_interval(values), 1.96 * float(values.std()) / 20
    assert interval.low == pytest.approx(float(values.mean()) - half, abs=0.015)
    assert interval.high == pytest.approx(float(values.mean()) + half, abs=0.015)


def test_bootstrap_is_decided_by_its_seed():
    values = torch.randn(50, generator=torch.Generator().manual_seed(1))
    assert bootstrap_interval(values, seed=3) == bootstrap_interval(values, seed=3)
    assert bootstrap_interval(values, seed=3) != bootstrap_interval(values, seed=4)


def test_perplexity_weighs_units_by_their_tokens():
    interval = perplexity_interval(torch.tensor([10.0, 1.0]), torch.tensor([10.0, 1.0]))
    assert interval.low == pytest.approx(math.e)
    assert interval.high == pytest.approx(math.e)


def test_pairing_cancels_what_is_hard_for_both():
    drawing = torch.Generator().manual_seed(2)
    hard, tokens = torch.rand(100, generator=drawing) * 300, torch.full((100,), 100.0)
    paired = perplexity_difference_interval(hard + 5, hard, tokens)
    alone = perplexity_interval(hard + 5, tokens)
    unpaired = perplexity_interval(hard, tokens)
    assert paired.low > 0
    assert alone.low < unpaired.high


@pytest.mark.parametrize("counted", [1, 2, 20])
def test_units_without_a_counted_token_say_nothing(counted):
    drawing = torch.Generator().manual_seed(3)
    nats, tokens = torch.rand(counted, generator=drawing) * 30, torch.full((counted,), 10.0)
    empty = torch.zeros(60)
    more, more_tokens = torch.cat([empty, nats]), torch.cat([empty, tokens])
    assert perplexity_interval(more, more_tokens) == perplexity_interval(nats, tokens)
    paired = perplexity_difference_interval(more, torch.cat([empty, nats + 1]), more_tokens)
    assert paired == perplexity_difference_interval(nats, nats + 1, tokens)


def test_units_without_any_counted_token_are_refused():
    with pytest.raises(ValueError, match="at least one unit"):
        perplexity_interval(torch.zeros(3), torch.zeros(3))


@pytest.mark.parametrize("values", [torch.tensor([]), torch.tensor([1.0, math.nan])])
def test_no_values_and_nan_are_refused(values):
    with pytest.raises(ValueError, match="an interval needs"):
        student_interval(values)
    with pytest.raises(ValueError, match="an interval needs"):
        bootstrap_interval(values)


def test_bounds_in_the_wrong_order_are_refused():
    with pytest.raises(ValueError, match="low <= high"):
        Interval(1.0, 0.0, -1.0)
