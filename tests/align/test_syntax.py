"""Targets as text: what is read, and what is refused where."""

import contextlib
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.align import features
from collegium.align.syntax import FEATURES, Vocabulary, parse_target
from collegium.align.target import Constraint, Moment, Tilt
from collegium.core.errors import CollegiumError, ConfigError
from collegium.core.samples import Sample

OPENED: list[str] = []


def opened(reference: str) -> features.TextFeature:
    OPENED.append(reference)
    return features.TextFeature(f"reward({reference})", len)


WORDS = Vocabulary(FEATURES, opened)


def test_every_kind_of_factor_is_read() -> None:
    text = (
        'contains("she") * (not any_of("sea", "ship")) * (length() >= 3) * (length() <= 9)'
        ' * (moment(female()) == 0.5) * tilt(count_of("and"), -0.5) * reward("LIB#judge", beta=0.2) * reward("LIB#j")'
    )
    found = parse_target(text, WORDS)
    assert [type(part) for part in found] == [Constraint] * 4 + [Moment] + [Tilt] * 3
    assert [part.feature.name for part in found][:3] == ['contains("she")', 'any_of("sea", "ship")', "length()"]
    assert (found[2].low, found[2].high) == (3.0, math.inf)
    assert (found[3].low, found[3].high) == (-math.inf, 9.0)
    assert found[4].value == 0.5
    assert [part.weight for part in found[5:]] == [-0.5, pytest.approx(5.0), pytest.approx(10.0)]
    assert OPENED[-2:] == ["LIB#judge", "LIB#j"]


def test_not_is_what_the_constraint_leaves() -> None:
    one, other = parse_target('contains("she") * (not contains("she"))', WORDS)
    values = torch.tensor([0.0, 1.0, 0.5, 0.4999], dtype=torch.float64)
    kept = [part.log_factor(values) == 0 for part in (one, other)]
    assert torch.equal(kept[0], ~kept[1])


@pytest.mark.parametrize(
    ("text", "place", "message"),
    [
        ('contain("she")', 1, "Did you mean 'contains'?"),
        ('contains("she") * colour()', 19, "there is no feature 'colour'"),
        ('contains("she"', 9, "cannot be read"),
        ("", 1, "cannot be read"),
        ("moment(female())", 1, "compared with its value"),
        ("moment(female()) >= 0.5", 1, "a moment is one value"),
        ("moment(female()) == x", 21, "a finite number is expected"),
        ("moment(female()) == 1e999", 21, "a finite number is expected"),
        ("moment(female(), 2) == 0.5", 1, "moment takes one feature"),
        ('contains("a") * moment(female()) == 0.5', 1, "stands in parentheses"),
        ("1 <= length() <= 3", 1, "one comparison"),
        ("length() > 3", 1, "by >= or <="),
        ("tilt(length())", 1, "tilt takes a feature and a number"),
        ('reward("L#n", gamma=1)', 1, "reward takes a reward model and beta"),
        ('reward("L#n", beta=-1)', 20, "beta is positive"),
        ("reward(3)", 8, "a text in quotes"),
        ("contains()", 1, "does not take these"),
        ('regex("(")', 1, "no regular expression"),
        ('contains("!")', 1, "has no word in it"),
        ("any_of()", 1, "any_of takes words"),
        ("__import__('os').system('true')", 1, "a feature is a call"),
        ("(lambda: 1)()", 1, "a feature is a call"),
        ("[x for x in y]", 1, "a feature is a call"),
        ("female() + female()", 1, "a feature is a call"),
        ("female", 1, "a feature is a call"),
        ("(" * 300 + "female()" + ")" * 300, 201, "cannot be read"),
        ("female() * " * 60 + "female()", 1, "nested too deeply"),
    ],
)
def test_mistakes_point_into_the_text(text: str, place: int, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse_target(text, WORDS)
    assert message in str(caught.value)
    assert f"at character {place} " in str(caught.value)


@given(st.text(max_size=60))
def test_nothing_but_our_own_errors_comes_of_any_text(text: str) -> None:
    with contextlib.suppress(CollegiumError):
        parse_target(text, WORDS)


def values(feature: features.TextFeature, *completions: str) -> list[float]:
    return feature([Sample("she and the sea ", each) for each in completions]).tolist()


def test_words_are_whole_in_any_case_and_the_prompt_is_not_seen() -> None:
    assert values(features.contains("she"), " nothing", " SHE!", " ashes", " she's", "She\u2019ll") == [0, 1, 0, 0, 0]
    assert values(features.contains("once upon"), " Once  upon", " once, upon", " upon once") == [1, 1, 0]
    assert values(features.any_of("sea", "ship"), " the ship", " the seas") == [1, 0]
    assert values(features.count_of("the", "a"), " The cat and a dog and the rest") == [3]
    assert values(features.length(), "", " one two-three") == [0, 3]
    assert values(features.female(), " she saw him", " her, and hers; he", " nobody") == [0, 1, 0]


def test_code_is_parsed_with_its_prompt_and_never_run() -> None:
    compiles = features.compiles()
    start = "def f():\n"
    samples = [Sample(start, "    return 1\n"), Sample(start, "return 1\n"), Sample("", "1/0"), Sample("", "\0")]
    assert compiles(samples).tolist() == [1, 0, 1, 0]
