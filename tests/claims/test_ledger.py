"""The ledger is read strictly, and what is committed is sound."""

import copy

import pytest

from collegium.claims import EXPERIMENTS, parse_claim, problems, read_ledger, read_results
from collegium.core.errors import ConfigError

GOOD = {
    "id": "M2",
    "scale": "toy",
    "statement": "A beats B.",
    "source": "memory",
    "fidelity": "paper's equations",
    "experiment": "toy_bigrams",
    "seeds": [0, 1, 2, 3, 4],
    "tuning": "none",
    "parts": [{"metric": "gain", "says": "B minus A", "unit": "nats", "direction": "above", "margin": 0.1}],
}


def changed(**values):
    return {**copy.deepcopy(GOOD), **values}


def with_part(**values):
    return changed(parts=[{**GOOD["parts"][0], **values}])


def test_a_good_claim_is_read():
    claim = parse_claim(GOOD, where="M2-toy.toml")
    assert claim.key == "M2-toy"
    assert claim.parts[0].margin == 0.1


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (changed(statment="x"), "Did you mean 'statement'"),
        ({key: value for key, value in GOOD.items() if key != "tuning"}, "'tuning' is missing"),
        (changed(scale="tiny"), "scale is one of"),
        (changed(source="hearsay"), "source is one of"),
        (changed(fidelity="ours"), "fidelity is one of"),
        (changed(seeds=[0, 1, 2]), "at least 5 seeds"),
        (changed(seeds=[0, 0, 1, 2, 3]), "different whole numbers"),
        (changed(seeds=[0.5, 1, 2, 3, 4]), "different whole numbers"),
        (changed(scale="small", seeds=[0, 1]), "at least 3 seeds"),
        (changed(scale="exact"), "direction 'law'"),
        (changed(id="claim two"), "a letter and a number"),
        (changed(statement=" "), "statement is a sentence"),
        (changed(parts=[]), r"at least one \[\[parts\]\]"),
        (with_part(direction="up"), "direction is one of"),
        (with_part(margin="0.1"), "margin is a number"),
        (with_part(units="nats"), "unknown key 'units'"),
    ],
)
def test_every_mistake_is_named(raw, says):
    with pytest.raises(ConfigError, match=says):
        parse_claim(raw, where="M2-toy.toml")


def test_all_problems_come_at_once():
    with pytest.raises(ConfigError) as caught:
        parse_claim(changed(scale="tiny", source="hearsay"), where="M2-toy.toml")
    assert "scale is one of" in str(caught.value)
    assert "source is one of" in str(caught.value)


def test_a_changed_margin_is_another_claim():
    assert parse_claim(GOOD, where="x").hash != parse_claim(with_part(margin=0.2), where="x").hash


def test_a_misnamed_file_is_refused(tmp_path):
    text = 'id = "M2"\nscale = "exact"\nstatement = "s"\nsource = "ours"\nfidelity = "our reading"\nexperiment = "e"\n'
    text += 'seeds = [0]\ntuning = "none"\n[[parts]]\nmetric = "m"\nsays = "s"\nunit = "u"\n'
    text += 'direction = "law"\nmargin = 0.0\n'
    (tmp_path / "M3-exact.toml").write_text(text)
    with pytest.raises(ConfigError, match=r"name it M2-exact\.toml"):
        read_ledger(tmp_path)


def test_the_committed_ledger_names_experiments_that_exist():
    claims = read_ledger()
    assert {claim.experiment for claim in claims} <= set(EXPERIMENTS)
    assert {claim.scale for claim in claims} >= {"exact", "toy", "small"}
    numbers = {
        "M": range(1, 19),
        "B": range(1, 8),
        "C": range(1, 8),
        "R": range(1, 12),
        "D": range(1, 17),
        "X": range(1, 4),
        "L": range(1, 11),
        "S": range(1, 5),
        "A": range(1, 7),
        "G": range(1, 4),
    }
    assert {claim.id for claim in claims} == {f"{letter}{each}" for letter, own in numbers.items() for each in own}


def test_the_committed_results_fit_the_ledger():
    assert problems(read_ledger(), read_results()) == []
