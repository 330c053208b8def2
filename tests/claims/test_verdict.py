"""The verdict rule, and broken rules that it is told apart from."""

import pytest

from collegium.claims.verdict import judge, seed_interval, together


def mean_only(values, *, direction, margin):
    """Broken: judges the mean and forgets the interval."""
    mean = sum(values) / len(values)
    return "holds" if (mean > margin) == (direction == "above") else "fails"


@pytest.mark.parametrize(
    ("values", "direction", "margin", "verdict"),
    [
        ([1.0, 1.1, 0.9], "above", 0.5, "holds"),
        ([1.0, 1.1, 0.9], "above", 1.5, "fails"),
        ([1.0, 1.1, 0.9], "above", 1.0, "not shown"),
        ([1.0, 1.1, 0.9], "below", 1.5, "holds"),
        ([1.0, 1.1, 0.9], "below", 0.5, "fails"),
        ([1.0, 1.1, 0.9], "below", 1.0, "not shown"),
        ([0.0, 0.0], "law", 0.0, "holds"),
        ([0.0, 1e-3], "law", 0.0, "fails"),
        ([-5.0], "law", 0.0, "holds"),
    ],
)
def test_the_interval_against_the_margin_decides(values, direction, margin, verdict):
    assert judge(values, direction=direction, margin=margin) == verdict


@pytest.mark.parametrize("direction", ["above", "below"])
def test_one_seed_shows_nothing(direction):
    assert judge([1e9], direction=direction, margin=0.0) == "not shown"
    assert judge([-1e9], direction=direction, margin=0.0) == "not shown"
    assert mean_only([1e9], direction="above", margin=0.0) == "holds"


def test_scattered_seeds_show_nothing_where_the_mean_would():
    values = [3.0, -1.0, 1.0]
    assert judge(values, direction="above", margin=0.0) == "not shown"
    assert mean_only(values, direction="above", margin=0.0) == "holds"


def test_an_interval_that_touches_the_margin_shows_nothing():
    assert judge([1.0, 1.0], direction="above", margin=1.0) == "not shown"
    assert seed_interval([1.0, 1.0]).low == 1.0


@pytest.mark.parametrize(
    ("verdicts", "whole"),
    [
        (["holds", "holds"], "holds"),
        (["holds", "not shown"], "not shown"),
        (["not shown", "fails"], "fails"),
        ([], "not shown"),
    ],
)
def test_parts_together(verdicts, whole):
    assert together(verdicts) == whole
