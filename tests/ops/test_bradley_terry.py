"""The Bradley-Terry loss: exact values, symmetry, margin and smoothing."""

import math

import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.preferences import bradley_terry

NUMBERS = st.floats(-20, 20)


def loss(chosen, rejected, **options):
    both = (torch.tensor([value], dtype=torch.float64) for value in (chosen, rejected))
    return float(bradley_terry(*both, **options))


@given(NUMBERS, NUMBERS, st.floats(0, 5))
def test_it_is_the_nats_of_the_preference(chosen, rejected, margin):
    probability = 1 / (1 + math.exp(-(chosen - rejected - margin)))
    assert math.isclose(loss(chosen, rejected, margin=margin), -math.log(probability), rel_tol=1e-6, abs_tol=1e-9)


@given(NUMBERS, NUMBERS)
def test_both_ways_round_are_probabilities_that_sum_to_one(chosen, rejected):
    total = math.exp(-loss(chosen, rejected)) + math.exp(-loss(rejected, chosen))
    assert math.isclose(total, 1, rel_tol=1e-9)


@given(NUMBERS, NUMBERS, st.floats(0.01, 0.49))
def test_smoothing_mixes_the_loss_with_that_of_the_other_way_round(chosen, rejected, share):
    mixed = (1 - share) * loss(chosen, rejected) + share * loss(rejected, chosen)
    assert math.isclose(loss(chosen, rejected, smoothing=share), mixed, rel_tol=1e-9, abs_tol=1e-12)


def test_the_smoothed_loss_is_least_where_the_preference_is_as_sure_as_its_labels():
    gap = torch.linspace(-6, 6, 2401, dtype=torch.float64)
    best = gap[bradley_terry(gap, torch.zeros_like(gap), smoothing=0.1).argmin()]
    assert math.isclose(float(best), math.log(0.9 / 0.1), abs_tol=0.01)


def test_a_far_wrong_pair_has_a_finite_loss():
    assert math.isclose(loss(-1e4, 1e4), 2e4)
