"""Runs go on where they were, results are not overwritten, failed claims owe an analysis."""

import dataclasses
import json

import pytest

from collegium.claims import Experiment, add_analysis, claims_page, list_claims, problems, read_ledger, run_claims
from collegium.claims.results import read_result, read_results
from collegium.claims.tables import read_table
from collegium.core.errors import ConfigError

ROW = """
id = "{id}"
scale = "toy"
statement = "A beats B."
source = "ours"
fidelity = "our reading"
experiment = "counted"
seeds = [0, 1, 2, 3, 4]
tuning = "none"
[[parts]]
metric = "gain"
says = "B minus A"
unit = "nats"
direction = "above"
margin = {margin}
"""


class Counted:
    """An experiment that counts how often each piece was computed, and breaks where it is told to."""

    def __init__(self, break_at=None):
        self.ran, self.break_at = [], break_at

    def run(self, piece, place):
        if (place.seed, piece) == self.break_at:
            raise KeyboardInterrupt
        self.ran.append((place.seed, piece))
        if piece == "rate":
            return {"rate": 0.5}
        return {"value": place.done["rate"]["rate"] + place.number + (piece == "second")}

    def table(self, **settings):
        return {
            "counted": Experiment(
                pieces=("first", "second"),
                once=("rate",),
                run=self.run,
                measure=lambda done: {"gain": done["first"]["value"] + 10, "other": done["second"]["value"]},
                rows=lambda done: [{"model": "a", "value": done["first"]["value"]}],
                settings=settings,
            )
        }


@pytest.fixture
def places(tmp_path):
    ledger = tmp_path / "ledger"
    ledger.mkdir()
    (ledger / "M2-toy.toml").write_text(ROW.format(id="M2", margin=1.0))
    (ledger / "M10-toy.toml").write_text(ROW.format(id="M10", margin=100.0))
    return {"ledger": ledger, "results": tmp_path / "results", "folder": tmp_path / "run"}


def test_claims_share_pieces_and_come_out(places):
    counted = Counted()
    found = run_claims(experiments=counted.table(), command="the command", **places)
    assert [(each.claim.key, each.state, each.result.verdict) for each in found] == [
        ("M2-toy", "measured", "holds"),
        ("M10-toy", "measured", "fails"),
    ]
    assert len(counted.ran) == len(set(counted.ran)) == 11
    result = read_result(places["results"] / "M2-toy.json")
    assert result.parts[0].values == (10.5, 11.5, 12.5, 13.5, 14.5)
    assert result.command == "the command"
    assert found[1].result.table == result.table, "one table for both"
    rows = read_table(result.table, folder=places["results"])
    assert [row["value"] for row in rows] == [0.5, 1.5, 2.5, 3.5, 4.5]


def test_an_interrupted_run_goes_on(places):
    broken = Counted(break_at=(2, "second"))
    with pytest.raises(KeyboardInterrupt):
        run_claims(["M2"], experiments=broken.table(), **places)
    after = Counted()
    run_claims(["M2"], experiments=after.table(), **places)
    assert after.ran[0] == (2, "second")
    assert not set(broken.ran) & set(after.ran)


def test_a_spent_budget_stops_after_a_piece_and_leaves_no_result(places):
    counted = Counted()
    found = run_claims(["M2"], budget_seconds=0.0, experiments=counted.table(), **places)
    assert [each.state for each in found] == ["unfinished"]
    assert counted.ran == []
    assert not places["results"].exists()


def test_a_result_is_kept_unless_told_and_then_remembered(places):
    run_claims(["M2"], experiments=Counted().table(), **places)
    kept = run_claims(["M2"], experiments=Counted().table(), **places)
    assert [each.state for each in kept] == ["kept"]
    anew = Counted()
    again = run_claims(["M2"], replace=True, experiments=anew.table(), **places)
    assert [each.state for each in again] == ["measured"]
    assert anew.ran, "measuring anew computes pieces anew"
    assert (places["folder"] / "counted-old-1").is_dir()
    assert [each["verdict"] for each in read_result(places["results"] / "M2-toy.json").earlier] == ["holds"]


def test_a_folder_of_other_settings_is_refused(places):
    run_claims(["M2"], experiments=Counted().table(steps=1), **places)
    with pytest.raises(ConfigError, match="other settings"):
        run_claims(["M10"], experiments=Counted().table(steps=2), **places)


def test_unknown_names_are_answered(places):
    with pytest.raises(ConfigError, match="no claim 'M3'"):
        run_claims(["M3"], experiments=Counted().table(), **places)
    with pytest.raises(ConfigError, match="no claim of scale 'small'"):
        run_claims(["M2"], "small", experiments=Counted().table(), **places)
    with pytest.raises(ConfigError, match="no experiment 'counted'"):
        run_claims(["M2"], experiments={}, **places)


def test_an_unmeasured_metric_is_named(places):
    table = {"counted": dataclasses.replace(Counted().table()["counted"], measure=lambda done: {"gian": 1.0})}
    with pytest.raises(ConfigError, match="no 'gain' for seeds"):
        run_claims(["M2"], experiments=table, **places)


def test_a_failed_claim_owes_an_analysis(places):
    run_claims(experiments=Counted().table(), **places)
    claims = read_ledger(places["ledger"])
    assert problems(claims, read_results(places["results"])) == [
        "M10-toy: failed, and `analysis` says nothing about why."
    ]
    add_analysis("M10-toy", "The margin is far above what is possible.", folder=places["results"])
    assert problems(claims, read_results(places["results"])) == []
    with pytest.raises(ConfigError, match="words"):
        add_analysis("M10-toy", "  ", folder=places["results"])


def test_a_verdict_that_the_numbers_do_not_give_and_a_changed_row_are_found(places):
    run_claims(["M2"], experiments=Counted().table(), **places)
    path = places["results"] / "M2-toy.json"
    raw = json.loads(path.read_text())
    path.write_text(json.dumps({**raw, "verdict": "not shown"}))
    assert "do not give the intervals" in problems(read_ledger(places["ledger"]), read_results(places["results"]))[0]
    path.write_text(json.dumps({**raw, "parts": [{**raw["parts"][0], "estimate": 99.0}]}))
    assert "do not give the intervals" in problems(read_ledger(places["ledger"]), read_results(places["results"]))[0]
    path.write_text(json.dumps(raw))
    (places["ledger"] / "M2-toy.toml").write_text(ROW.format(id="M2", margin=2.0))
    assert "row changed" in problems(read_ledger(places["ledger"]), read_results(places["results"]))[0]
    (places["ledger"] / "M2-toy.toml").unlink()
    assert "no row" in problems(read_ledger(places["ledger"]), read_results(places["results"]))[0]


def test_a_damaged_result_is_refused(places):
    places["results"].mkdir()
    path = places["results"] / "M2-toy.json"
    for text in ("{", '{"id": "M2"}', "[]"):
        path.write_text(text)
        with pytest.raises(ConfigError, match="does not hold a result"):
            read_result(path)


def test_the_list_and_the_page_say_what_was_not_run(places):
    run_claims(["M2"], experiments=Counted().table(), **places)
    listed = list_claims(ledger=places["ledger"], results=places["results"])
    assert [(each.claim.key, each.result is None) for each in listed] == [("M2-toy", False), ("M10-toy", True)]
    results = read_results(places["results"])
    name = results["M2-toy"].table
    tables = {name: read_table(name, folder=places["results"])}
    page = claims_page(read_ledger(places["ledger"]), results, tables)
    assert f"### `{name}`: M2" in page
    assert "| a | 2.5 |" in page
    assert "### M2 (toy): holds" in page
    assert "### M10 (toy): not run" in page
    assert "| ours | 1 | 0 | 0 | 1 |" in page
