"""Benches run at pico size, alternate, compare outputs before timing, and keep what they found."""

import importlib.metadata
import json

import pytest
import torch

from collegium.bench import BENCHES, Bench, Finding, Target, Timing, alternate, choose_benches, growth, run_bench
from collegium.bench.clustering import inertia, points
from collegium.bench.curves import exponent
from collegium.bench.memory import peak_bytes
from collegium.bench.shares import OUTSIDE, by_module, by_operator, profile_runs
from collegium.core.errors import ConfigError


def counted(found=None):
    ran = []

    def run(quick, progress):
        ran.append(quick)
        progress("at work")
        return found or Finding([{"contestant": "a"}], {"slowdown": 2.0}, (Target("slowdown", "at most", 1.5),), 0.0)

    profiled = {"a sum": lambda: torch.ones(300, 300) @ torch.ones(300, 300)}
    return ran, {"X1": Bench("X1", "something", "fast", run, profiled=lambda quick: profiled)}


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
    assert kept["targets"] == [{"name": "slowdown", "target": "at most 1.5", "got": 2.0, "reached": False}]
    assert kept["reached"] is False
    assert kept["profile"] == []
    assert kept["command"] == "the command"
    assert "torch" in kept["machine"]
    assert kept["versions"]["torch"] == importlib.metadata.version("torch")
    assert kept["date"] == result.date


def test_a_quick_run_has_its_own_file_and_claims_nothing(tmp_path):
    _, benches = counted()
    (result,) = run_bench(quick=True, folder=tmp_path, benches=benches)
    assert [path.name for path in tmp_path.iterdir()] == ["X1-quick.json"]
    assert [(each["got"], each["reached"]) for each in result.targets] == [(None, False)]
    assert not result.reached
    assert "measures no target" in result.notes[-1]


def test_all_targets_together_are_reached_or_not(tmp_path):
    targets = (Target("slowdown", "at most", 1.5), Target("speedup", "at least", 2.0))
    for figures, reached in [
        ({"slowdown": 1.0, "speedup": 3.0}, True),
        ({"slowdown": 1.0, "speedup": 1.0}, False),
        ({"slowdown": 1.0}, False),
    ]:
        _, benches = counted(Finding([], figures, targets))
        (result,) = run_bench(["X1"], folder=tmp_path, benches=benches)
        assert result.reached is reached


def test_what_is_left_is_looked_into_when_asked_for(tmp_path):
    _, benches = counted()
    (result,) = run_bench(["X1"], profile=True, folder=tmp_path, benches=benches)
    assert {each["by"] for each in result.profile} == {"operator", "module"}
    assert {each["of"] for each in result.profile} == {"a sum"}


def test_unknown_names_are_answered(tmp_path):
    with pytest.raises(ConfigError, match="no bench 'V99'"):
        run_bench(["V99"], folder=tmp_path)


def test_targets_point_the_right_way():
    assert Target("x", "at least", 4.0).reached(5.0)
    assert not Target("x", "at least", 4.0).reached(3.0)
    assert not Target("x", "at most", 4.0).reached(5.0)
    left_out = Finding([], {}, (Target("speedup", "at least", 4.0),)).judged()
    assert left_out == [{"name": "speedup", "target": "at least 4", "got": None, "reached": False}]


def test_the_exponent_is_that_of_a_power():
    assert exponent({size: 3.0 * size**1.5 for size in (1, 2, 4, 8)}) == pytest.approx(1.5)
    assert exponent({size: 7.0 for size in (1, 2, 4, 8)}) == pytest.approx(0.0)
    with pytest.raises(ValueError, match="at least two sizes"):
        exponent({1: 1.0})


def test_growth_has_size_least_ms_and_one_exponent():
    curve = growth("ours", "experts", {size: Timing((size * 2.0, size * 1.0)) for size in (1, 2, 4, 8)})
    assert [(each["size"], each["ms"], each["exponent"]) for each in curve] == [
        (size, 1e3 * size, 1.0) for size in (1, 2, 4, 8)
    ]


def test_the_peak_of_memory_is_seen_though_it_is_gone_afterwards():
    def heavy():
        held = torch.ones(64, 1024, 1024)  # 256 MiB, written to
        held += 1

    assert peak_bytes(heavy) > 200e6
    assert peak_bytes(lambda: torch.ones(8)) < 100e6


def test_shares_of_a_run_add_up_and_name_what_is_slow():
    def product():
        torch.ones(700, 700) @ torch.ones(700, 700)

    layer, inputs = torch.nn.Linear(700, 700), torch.ones(700, 700)
    operators, modules = by_operator(product), by_module(lambda: layer(inputs))
    assert sum(operators.values()) == pytest.approx(1.0)
    assert OUTSIDE in operators
    assert max(operators, key=operators.__getitem__) == "aten::mm"
    assert sum(modules.values()) == pytest.approx(1.0)
    assert max(modules, key=modules.__getitem__) == "torch.nn.modules.linear"  # it calls the compiled product
    shares = profile_runs({"product": product}, entries=2)
    assert [each["by"] for each in shares] == ["operator", "operator", "module", "module"]


def test_every_bench_says_what_must_be_reached():
    names = [bench.name for bench in choose_benches()]
    assert names == sorted(names, key=lambda name: (int(name.removeprefix("V").partition("-")[0]), name))
    assert {"V4", "V6", "V9", "V10"} <= set(names)
    assert all(bench.what and bench.must for bench in BENCHES.values())


def test_inertia_is_least_for_the_true_parts():
    data = points(60, 3)
    labels = torch.arange(60) % 3
    assert inertia(data, labels, 3) == pytest.approx(
        sum(float((data[labels == each] - data[labels == each].mean(0)).square().sum()) for each in range(3))
    )
    assert inertia(data, torch.arange(60), 60) == pytest.approx(0.0, abs=1e-6)


BESIDE_PEFT = {"V1", "V2", "V3", "V5", "V6", "V7", "V11", "V11-training", "V14"}
"""Benches that build models of PEFT's, which takes seconds even at pico size."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.recipe] * (name in BESIDE_PEFT)) for name in sorted(BENCHES)]
)
def test_every_bench_runs_at_pico_size(name, tmp_path):
    (result,) = run_bench([name], quick=True, folder=tmp_path)
    assert result.rows
    assert result.targets
    assert {"min_ms", "median_ms", "repeats", "peak_mb"} <= set(result.rows[0])
    curves = {each["curve"] for each in result.growth}
    assert curves
    assert all(len({each["size"] for each in result.growth if each["curve"] == curve}) >= 4 for curve in curves)
    profiled = BENCHES[name].profiled
    assert profiled is not None
    for run in profiled(True).values():
        run()
    assert all(value >= 0 for value in result.ratios.values())
    if name in {"V4", "V11", "V11-training", "V14"}:
        assert result.largest_difference is not None
        assert result.largest_difference < 1e-4
    if name == "V7":
        assert result.largest_difference is not None
        assert result.largest_difference < 1e-4
        assert abs(result.ratios["error_above_peers"]) < 1e-6
    if name == "V9":
        assert result.ratios["largest_minus_smallest"] <= 1
