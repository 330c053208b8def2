"""Benches run at pico size, alternate, compare outputs before timing, and keep what they found."""

import importlib.metadata
import json

import pytest
import torch

from collegium.bench import BENCHES, Bench, Finding, Target, alternate, choose_benches, run_bench
from collegium.bench.clustering import inertia, points
from collegium.core.errors import ConfigError


def counted(found=None):
    ran = []

    def run(quick, progress):
        ran.append(quick)
        progress("at work")
        return found or Finding([{"contestant": "a"}], {"slowdown": 2.0}, (Target("slowdown", "at most", 1.5),), 0.0)

    return ran, {"X1": Bench("X1", "something", "fast", run)}


def test_contestants_take_turns_after_one_that_is_not_counted():
    order = []
    timings = alternate({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert len(timings["a"].seconds) == 3
    assert timings["b"].least <= timings["b"].median


def test_no_repeat_is_refused():
    with pytest.raises(ValueError, match="at least one repeat"):
        alternate({"a": lambda: None}, repeats=0)


def test_a_result_is_written_with_machine_versions_and_date(tmp_path):
    ran, benches = counted()
    said = []
    (result,) = run_bench(["X1"], folder=tmp_path, command="the command", progress=said.append, benches=benches)
    kept = json.loads((tmp_path / "X1.json").read_text())
    assert (ran, said) == ([False], ["X1: something", "at work"])
    assert kept["reached"] == {"slowdown at most 1.5": False}
    assert kept["command"] == "the command"
    assert "torch" in kept["machine"]
    assert kept["versions"]["torch"] == importlib.metadata.version("torch")
    assert kept["date"] == result.date


def test_a_quick_run_has_its_own_file_and_claims_nothing(tmp_path):
    _, benches = counted()
    (result,) = run_bench(quick=True, folder=tmp_path, benches=benches)
    assert [path.name for path in tmp_path.iterdir()] == ["X1-quick.json"]
    assert result.reached == {}


def test_unknown_names_are_answered(tmp_path):
    with pytest.raises(ConfigError, match="no bench 'V99'"):
        run_bench(["V99"], folder=tmp_path)


def test_targets_point_the_right_way():
    assert Target("x", "at least", 4.0).reached(5.0)
    assert not Target("x", "at least", 4.0).reached(3.0)
    assert not Target("x", "at most", 4.0).reached(5.0)
    left_out = Finding([], {}, (Target("speedup", "at least", 4.0),)).reached()
    assert left_out == {}


def test_every_bench_says_what_must_be_reached():
    assert [bench.name for bench in choose_benches()] == ["V4", "V6", "V7", "V9", "V10"]
    assert all(bench.what and bench.must for bench in BENCHES.values())


def test_inertia_is_least_for_the_true_parts():
    data = points(60, 3)
    labels = torch.arange(60) % 3
    assert inertia(data, labels, 3) == pytest.approx(
        sum(float((data[labels == each] - data[labels == each].mean(0)).square().sum()) for each in range(3))
    )
    assert inertia(data, torch.arange(60), 60) == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("name", ["V4", "V6", "V7", "V9", "V10"])
def test_every_bench_runs_at_pico_size(name, tmp_path):
    (result,) = run_bench([name], quick=True, folder=tmp_path)
    assert result.rows
    assert all(value >= 0 for value in result.ratios.values())
    if name == "V4":
        assert result.largest_difference is not None
        assert result.largest_difference < 1e-4
    if name == "V7":
        assert result.largest_difference is not None
        assert result.largest_difference < 1e-4
        assert abs(result.ratios["error_above_peers"]) < 1e-6
    if name == "V9":
        assert result.ratios["largest_minus_smallest"] <= 1
