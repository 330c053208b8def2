"""The exact claims about arithmetic hold, and arithmetic that is not theirs is told apart."""

import pytest

from collegium.claims import arithmetic
from collegium.claims.experiment import Place
from collegium.experts.algebra import negated_factor


@pytest.fixture
def place(tmp_path):
    return Place(3, tmp_path, tmp_path, {}, lambda line: None)


def test_negation(place):
    found = arithmetic.negation(place)
    assert found["double_negation_gap"] == 0.0
    assert found["double_factor_negation_gap"] == 0.0
    assert found["both_factors_gap"] <= 1e-5
    assert found["one_factor_gap"] <= 1e-5
    assert found["negation_without_effect"] == 0.0


def test_negating_one_factor_in_place_of_both_is_seen(place, monkeypatch):
    monkeypatch.setattr(arithmetic, "negated_factors", negated_factor)
    assert arithmetic.negation(place)["both_factors_gap"] > 1e-2


def test_cross_terms(place):
    found = arithmetic.cross_terms(place)
    assert found["formula_gap"] <= 1e-10
    assert found["shared_factor_gap"] <= 1e-10
    assert found["other_sums_without_cross_terms"] == 0.0


def test_another_formula_is_seen(place, monkeypatch):
    monkeypatch.setattr(arithmetic, "WEIGHTS", (0.5,))
    right = arithmetic.parameterwise_sum
    monkeypatch.setattr(arithmetic, "parameterwise_sum", lambda adapters, weights: right(adapters, weights[::-1]))
    assert arithmetic.cross_terms(place)["formula_gap"] <= 1e-10, "at one half the two are alike"
    monkeypatch.setattr(arithmetic, "WEIGHTS", (0.25,))
    assert arithmetic.cross_terms(place)["formula_gap"] > 1e-2
