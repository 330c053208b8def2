"""Targets against closed forms and exact sums on an enumerable model."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.align.draws import Draws
from collegium.align.features import TextFeature
from collegium.align.moments import solve_tilts
from collegium.align.target import Constraint, Moment, Target, Tilt, solved
from collegium.core.errors import TargetError
from collegium.core.samples import Sample
from collegium.testing.tiny import TinyLM, tiny_lm

LENGTH = 3


def says(token: int) -> TextFeature:
    """Return whether a token stands in a completion."""
    return TextFeature(f"says({token})", lambda text: float(str(token) in text.split()))


SIZE = TextFeature("size()", lambda text: len(text.split()))


def every_text(model: TinyLM) -> Draws:
    """Return all texts of a model, each once: a proposal that is uniform over them."""
    texts = model.enumerate_texts(LENGTH)
    width = LENGTH + 1
    shown = [[token for token in text[1:] if token != model.eos] for text in texts]
    return Draws(
        torch.tensor([[*text, *[0] * (width - len(text))] for text in texts]),
        torch.ones(len(texts), dtype=torch.long),
        torch.tensor([len(text) for text in texts]),
        torch.full((len(texts),), -math.log(len(texts)), dtype=torch.float64),
        torch.zeros(len(texts), dtype=torch.long),
        tuple(Sample("", " ".join(map(str, text))) for text in shown),
    )


@given(st.floats(0.02, 0.98), st.floats(0.02, 0.98))
def test_one_binary_moment_has_the_closed_form(rate: float, wanted: float) -> None:
    """Claim D1: lambda = logit(mu) - logit(a)."""
    found = solve_tilts([torch.tensor([0.0, 1.0])], [wanted], torch.tensor([1 - rate, rate]).log(), names=["f"])
    assert found[0] == pytest.approx(math.log(wanted / (1 - wanted)) - math.log(rate / (1 - rate)), abs=1e-4)


def test_moments_partition_and_distance_have_their_closed_forms() -> None:
    model = tiny_lm(0)
    pool = every_text(model)
    rate = sum(math.exp(model.log_prob(text)) for text in model.enumerate_texts(LENGTH) if 2 in text[1:])
    done = solved(Target(model, (Moment(says(2), 0.5),)), pool)
    assert done.base["says(2)"] == pytest.approx(rate)
    assert done.moments["says(2)"] == pytest.approx(0.5, abs=1e-6)
    assert done.log_z == pytest.approx(math.log((1 - rate) / (1 - 0.5)), abs=1e-6)
    assert done.moved == pytest.approx(0.5 * math.log(0.5 / rate) + 0.5 * math.log(0.5 / (1 - rate)), abs=1e-6)


def test_a_constraint_costs_the_logarithm_of_its_rate() -> None:
    model = tiny_lm(0)
    done = solved(Target(model, (Constraint(says(2)),)), every_text(model))
    rate = done.base["says(2)"]
    assert done.log_z == pytest.approx(math.log(rate))
    assert done.moved == pytest.approx(-math.log(rate))
    assert done.moments["says(2)"] == pytest.approx(1.0)


def test_several_moments_and_a_constraint_are_met_at_once() -> None:
    model = tiny_lm(1)
    parts = (Constraint(says(1)), Moment(says(2), 0.4), Moment(SIZE, 2.5))
    done = solved(Target(model, parts), every_text(model))
    assert done.moments == pytest.approx({"says(1)": 1.0, "says(2)": 0.4, "size()": 2.5}, abs=1e-6)


def test_the_solution_is_the_closest_distribution_to_the_original() -> None:
    """Any other distribution with the same moment is further from a: p has KL(r || a) = KL(r || p) + KL(p || a)."""
    model, pool = tiny_lm(2), every_text(tiny_lm(2))
    done = solved(Target(model, (Moment(says(2), 0.5),)), pool)
    log_a = pool.log_prob(model)
    log_p = done.target.log_score(pool) - done.log_z
    on = done.target.values(pool.samples)["says(2)"] == 1
    other = torch.where(on, 0.5 / on.sum(), 0.5 / (~on).sum())
    far = float((other * (other.log() - log_a)).sum())
    assert far == pytest.approx(float((other * (other.log() - log_p)).sum()) + done.moved, abs=1e-6)


def test_factors_multiply_in_any_order() -> None:
    model, pool = tiny_lm(3), every_text(tiny_lm(3))
    one, two, three = Constraint(says(1)), Tilt(SIZE, 0.7), Tilt(says(2), -1.0)
    left = (Target(model, (one,)) * two * three).log_score(pool)
    right = (Target(model, (three,)) * one * two).log_score(pool)
    torch.testing.assert_close(left, right)
    alone = sum(Target(model, (part,)).log_score(pool) - pool.log_prob(model) for part in (one, two, three))
    torch.testing.assert_close(left, pool.log_prob(model) + alone)
    assert set((left - pool.log_prob(model))[left == -math.inf].tolist()) == {-math.inf}


def test_a_maximiser_is_paid_for_constraints_and_by_features() -> None:
    pool = every_text(tiny_lm(3))
    target = Target(tiny_lm(3), (Constraint(says(1)), Tilt(SIZE, 0.7)))
    values = target.values(pool.samples)
    torch.testing.assert_close(target.rewards(values), values["says(1)"] + values["size()"])


NOTHING = says(7)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ((Constraint(NOTHING),), "none keeps the constraint on says\\(7\\)"),
        ((Moment(NOTHING, 0.5),), "says\\(7\\) is 0 in all 15 texts"),
        ((Moment(SIZE, 3.5),), "lies between 0 and 3 in the 15 texts drawn.*got 3.5"),
        ((Moment(says(1), 1.0),), "is a constraint, not a moment"),
        ((Constraint(says(1)), Constraint(SIZE, -math.inf, 0.0)), "says\\(1\\) and size\\(\\) at once by none"),
        ((Moment(says(1), 0.9), Moment(TextFeature("mute", lambda text: "1" not in text), 0.9)), "exclude each other"),
    ],
)
def test_targets_out_of_reach_are_refused(parts: tuple, message: str) -> None:
    model = tiny_lm(4)
    with pytest.raises(TargetError, match=message):
        solved(Target(model, parts), every_text(model))


def test_a_target_without_factors_is_refused() -> None:
    model = tiny_lm(0)
    with pytest.raises(TargetError, match="at least one factor"):
        solved(Target(model, ()), every_text(model))


def _raise(text: str) -> float:
    raise ValueError(text)


class Short:
    """Forgets a text."""

    name = "short"

    def __call__(self, samples: object) -> torch.Tensor:
        return torch.zeros(3)


@pytest.mark.parametrize(
    ("feature", "message"),
    [
        (TextFeature("raises", _raise), "raises failed on 15 texts: ValueError"),
        (TextFeature("nan", lambda text: math.nan), "nan gives nan for a text"),
        (Short(), r"15 texts, but values of shape \(3,\)"),
    ],
)
def test_a_feature_that_fails_is_named(feature: TextFeature, message: str) -> None:
    with pytest.raises(TargetError, match=message):
        Target(tiny_lm(0), (Tilt(feature, 1.0),)).values(every_text(tiny_lm(0)).samples)
