"""Expressions are read by the grammar, names end where the rule says, mistakes are told with their place."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import ConfigError, UnknownName
from collegium.experts.algebra import (
    FUNCTIONS,
    average,
    dare,
    delta_of_adapter,
    evaluate,
    names_in,
    parse_expression,
    parse_list,
    written,
)
from collegium.experts.algebra import ties as ties_of
from collegium.models import LoraWeights

NAMES = ("law", "code", "code-2", "toxic", "v1.5", "7b", "a_b", "2", "ties")


def delta(seed):
    draw = torch.Generator().manual_seed(seed)
    return delta_of_adapter({"q": LoraWeights(torch.randn(2, 5, generator=draw), torch.randn(6, 2, generator=draw))})


DELTAS = {name: delta(seed) for seed, name in enumerate(NAMES)}
DENSE = {name: each.entries("q") for name, each in DELTAS.items()}


def value(text, names=NAMES):
    return evaluate(parse_expression(text, names), DELTAS).entries("q")


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("law", {"law": 1}),
        ("0.6*law + 0.4*code - toxic", {"law": 0.6, "code": 0.4, "toxic": -1}),
        ("-law", {"law": -1}),
        ("--law", {"law": 1}),
        ("+law - -code", {"law": 1, "code": 1}),
        ("-0.5*(law - code)/2", {"law": -0.25, "code": 0.25}),
        ("law*2*3", {"law": 6}),
        ("(1 - 0.3)*law + .3*code", {"law": 0.7, "code": 0.3}),
        ("1e-1*law+2.E0*code", {"law": 0.1, "code": 2}),
        ("law-code", {"law": 1, "code": -1}),
        ("law-code-2", {"law": 1, "code-2": -1}),
        ("code-2", {"code-2": 1}),
        ("code - 2*law", {"code": 1, "law": -2}),
        ("'code' - \"code-2\"", {"code": 1, "code-2": -1}),
        ("2*v1.5", {"v1.5": 2}),
        ("2*7b - a_b", {"7b": 2, "a_b": -1}),
        ("2 * '2'", {"2": 2}),
        ("ties + law", {"ties": 1, "law": 1}),
        ("  law\n+ code ", {"law": 1, "code": 1}),
        ("law - law + code", {"code": 1}),
        ("3 * 2 * law / 3 * 2 - 0*code", {"law": 4}),
        ("8 / 2 / 2 * law", {"law": 2}),
        ("(((law)))", {"law": 1}),
        ("0.7*law + 0.3*(code - toxic)", {"law": 0.7, "code": 0.3, "toxic": -0.3}),
    ],
)
def test_expressions_come_to_weighted_sums(text, weights):
    wanted = sum(weight * DENSE[name] for name, weight in weights.items())
    torch.testing.assert_close(value(text), wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(value(written(parse_expression(text, NAMES))), wanted, atol=1e-5, rtol=1e-5)


def test_the_same_text_is_read_by_the_names_there_are():
    assert names_in(parse_expression("code-2", NAMES)) == ("code-2",)
    with pytest.raises(ConfigError, match="character 5: an expert and a number"):
        value("code-2", ("code", "law"))
    with pytest.raises(UnknownName, match=r"character 1: the library has no expert 'codex'. Did you mean 'code'\?"):
        value("codex")


def test_functions_are_those_of_the_algebra():
    law, code = DELTAS["law"], DELTAS["code"]
    cases = {
        "ties(law, code)": ties_of([law, code]),
        "ties (law, 0.5*code; density = 0.5, scale=2)": ties_of([law, 0.5 * code], density=0.5, scale=2.0),
        "dare(law, code; seed=3, density=.5)": dare([law, code], density=0.5, seed=3),
        "average(law, code)": average([law, code]),
        "ties(dare(law; density=0.5), code; density=1) - 0.5*law": ties_of(
            [dare([law], density=0.5), code], density=1.0
        )
        - 0.5 * law,
    }
    for text, wanted in cases.items():
        torch.testing.assert_close(value(text), wanted.entries("q"))
        torch.testing.assert_close(value(written(parse_expression(text, NAMES))), wanted.entries("q"))


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_function_returns_one_expert_and_keeps_a_layer_that_others_lack(name):
    """With every entry kept, one expert is itself; where another has nothing, or is nothing, nothing is lost."""
    whole = "; density=1" if "density" in FUNCTIONS[name].options else ""
    torch.testing.assert_close(value(f"{name}(law{whole})"), DENSE["law"], atol=1e-5, rtol=1e-5)
    share = value(f"{name}(law, 0*code{whole})")
    scale = float((share * DENSE["law"]).sum() / DENSE["law"].square().sum())
    torch.testing.assert_close(share, scale * DENSE["law"], atol=1e-5, rtol=1e-5)
    assert scale in (pytest.approx(1), pytest.approx(0.5))
    again = value(written(parse_expression(f"{name}(law, code)", NAMES)))
    assert torch.equal(again, value(f"{name}(law, code)"))


def test_lists_are_parted_by_commas():
    found = parse_list("law, code - toxic , ties(law, code)", NAMES)
    assert [names_in(node) for node in found] == [("law",), ("code", "toxic"), ("law", "code")]
    with pytest.raises(ConfigError, match="is a list of 2"):
        parse_expression("law, code", NAMES)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "character 1: an expert, a number or . is expected, got 'the end'"),
        ("law +", "character 6: an expert, a number or"),
        ("law law", "character 5: a sign"),
        ("0.6law", "character 4: a sign"),
        ("(law", r"character 5: \) is expected"),
        ("law)", "character 4: a sign"),
        ("law ** 2", "character 6: an expert"),
        ("law.__class__", "character 4: a sign"),
        ("law * code", "character 5: experts are multiplied and divided by numbers"),
        ("2 / law", "character 3: experts are multiplied"),
        ("law / 0", "character 5: division by zero"),
        ("law + 1", "character 5: an expert and a number"),
        ("0.5", "comes to the number 0.5"),
        ("1e999*law", "character 1: a weight is a finite number"),
        ("'law", "the quotation mark ' is not closed"),
        ("tie(law, code)", r"character 1: there is no function 'tie'. Did you mean 'ties'\?"),
        ("ties(law; densty=0.5)", r"has no option 'densty'. Did you mean 'density'\?"),
        ("ties(law; density)", "character 18: = is expected"),
        ("ties(law; density=high)", "density is a number"),
        ("ties(law; density=2)", "density is the share"),
        ("dare(law; seed=0.5)", "seed is a whole number"),
        ("ties()", "character 6: an expert"),
        ("ties(2)", "comes to the number 2"),
        ("(" * 200 + "law" + ")" * 200, "nested too deeply"),
        ("+".join(["law"] * 1000), "too long"),
        ("__import__('os')", "no function '__import__'"),
    ],
)
def test_mistakes_are_told_with_their_place(text, says):
    with pytest.raises(ConfigError, match=says):
        value(text)


@pytest.mark.parametrize("text", ["lwa", "law + lwa", "'lwa'"])
def test_unknown_names_are_answered_with_the_nearest(text):
    with pytest.raises(UnknownName, match=r"no expert 'lwa'. Did you mean 'law'\?"):
        value(text)


@given(st.text(alphabet="law code-2.5*/+()',;= ties\n", max_size=40))
def test_no_text_breaks_the_parser(text):
    try:
        evaluate(parse_expression(text, NAMES), DELTAS)
    except (ConfigError, UnknownName):
        return


@given(
    st.recursive(
        st.sampled_from(["law", "code-2", "v1.5"]).map(lambda name: (name, {name: 1.0})),
        lambda inner: st.one_of(
            st.tuples(inner, inner).map(lambda pair: _add(*pair, 1)),
            st.tuples(inner, inner).map(lambda pair: _add(*pair, -1)),
            st.tuples(st.integers(-3, 3), inner).map(lambda pair: _times(*pair)),
        ),
        max_leaves=8,
    )
)
def test_any_expression_is_its_weighted_sum(drawn):
    text, weights = drawn
    wanted = sum((weight * DENSE[name] for name, weight in weights.items()), torch.zeros(6, 5))
    found = evaluate(parse_expression(text, NAMES), DELTAS)
    entries = found.entries("q") if found.layers else torch.zeros(6, 5)
    torch.testing.assert_close(entries, wanted, atol=1e-3, rtol=1e-4)


def _add(one, two, sign):
    weights = {name: one[1].get(name, 0) + sign * two[1].get(name, 0) for name in {**one[1], **two[1]}}
    return f"({one[0]} {'+' if sign > 0 else '-'} {two[0]})", weights


def _times(number, inner):
    return f"({number}*{inner[0]})", {name: number * weight for name, weight in inner[1].items()}
