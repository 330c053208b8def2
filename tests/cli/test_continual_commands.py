"""`continual run / add / eval` as a user calls them, on a pico base."""

import json
from pathlib import Path

import pytest

from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.library import Library
from collegium.models import load_base
from collegium.recipes.building.training import StepBar

ROOT = Path(__file__).parent.parent.parent

QUICK = (
    *("--train-rows", "24", "--dev-rows", "6", "--test-rows", "8", "--text-tokens", "56", "--memory", "3"),
    *("--rank", "2", "--layers", "top:1", "--passes", "1", "--batch", "8", "--router-steps", "4", "--template", " :"),
    *("--device", "cpu", "--dtype", "float32", "--threads", "1"),
)


def write_tasks(root, *families, first=1):
    root.mkdir(parents=True, exist_ok=True)
    for number, task in enumerate(synthetic_tasks(families, rows=80), first):
        for part, rows in (("", task.train), (".test", task.test)):
            lines = [json.dumps({"text": row.text, "label": row.label}) for row in rows]
            (root / f"task{number}{part}.jsonl").write_text("\n".join(lines) + "\n")
    return root


@pytest.fixture(scope="session")
def stream(tmp_path_factory):
    return write_tasks(tmp_path_factory.mktemp("stream") / "tasks", 0, 1)


def learn(stream, base, place, *more):
    words = ("continual", "run", stream, "--model", base, "--out", place / "run")
    return (*words, *QUICK, *more)


def test_a_stream_is_learnt_kept_judged_and_goes_on(ask, stream, pico_folder, tmp_path):
    kept = ("--library", tmp_path / "library", "--as", "mind")
    methods = ("--methods", "l2r,sequential,oracle", "--rates", "0.003", "0.001")
    code, found, told = ask(*learn(stream, pico_folder, tmp_path, *methods, *kept))
    assert code == 0, told
    assert found["setup"] == "class"
    assert list(found["methods"]) == ["l2r", "sequential", "oracle"]
    for each in found["methods"].values():
        assert [len(row) for row in each["matrix"]] == [1, 2]
        assert each["average_accuracy"] == pytest.approx(
            sum(sum(own["matrix"][-1]) / 2 for own in each["orders"]) / 2, abs=1e-6
        )
        assert set(each["rates_tried"]) == {"0.003", "0.001"}
    assert found["orders"] == [["task1", "task2"], ["task2", "task1"]]
    assert set(found["floor"]["words"]) == {"task1", "task2"}
    assert "<svg" in (tmp_path / "run" / "report.html").read_text()

    library = Library(tmp_path / "library", base=load_base(str(pico_folder)))
    assert {"mind-task1", "mind-task2"} <= set(library)
    digests = {name: library[name].digest for name in ("mind-task1", "mind-task2")}

    code, judged, told = ask("continual", "eval", stream, "--model", f"{tmp_path}/library#mind", "--dtype", "float32")
    assert code == 0, told
    assert set(judged["accuracy"]) == {"task1", "task2"}
    assert judged["skipped"]["task1"] > 0

    new = write_tasks(tmp_path / "new", 2, first=3)
    added = ("--model", f"{tmp_path}/library#mind", "--out", tmp_path / "add", "--dtype", "float32", "--threads", "1")
    code, grown, told = ask("continual", "add", new, *added)
    assert code == 0, told
    assert grown["changed"] == []
    assert set(grown["accuracy"]) == {"task3"}
    again = Library(tmp_path / "library", base=load_base(str(pico_folder)))
    assert {name: again[name].digest for name in digests} == digests

    code, judged, told = ask("continual", "eval", new, "--model", f"{tmp_path}/library#mind", "--dtype", "float32")
    assert code == 0, told
    code, _, told = ask("continual", "add", new, *added)
    assert code == 2
    assert "already" in told
    code, _, told = ask("library", "remove", "mind", "--library", tmp_path / "library")
    assert code == 0, told
    assert not [name for name in Library(tmp_path / "library", read_only=True) if name.startswith("mind")]


def test_a_run_that_is_repeated_repeats_nothing(ask, stream, pico_folder, tmp_path):
    words = learn(stream, pico_folder, tmp_path, "--methods", "sequential,uniform", "--rates", "0.003", "--orders", "1")
    _, first, _ = ask(*words)
    steps = sorted((tmp_path / "run" / "steps").rglob("*.safetensors"))
    times = [file.stat().st_mtime_ns for file in steps]
    _, second, _ = ask(*words)
    assert [file.stat().st_mtime_ns for file in steps] == times
    for name, each in first["methods"].items():
        assert {**second["methods"][name], "seconds": 0} == {**each, "seconds": 0}


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--methods", "l2r,nothing"), "no method 'nothing'"),
        (("--methods", "progprompt"), "needs each text's task"),
        (("--memory", "0", "--methods", "l2r"), "memory, which is empty"),
        (("--orders", "0"), "at least 1"),
        (("--as", "mind"), "go together"),
        (("--order", "task1", "task9"), "no task 'task9'"),
        (("--text-tokens", "100000"), "reads at most"),
        (("--budget", "huge"), "reduced"),
        (("--layers", "top:x"), "top:K"),
    ],
)
def test_mistakes_end_in_a_message(ask, stream, pico_folder, tmp_path, words, message):
    code, found, told = ask(*learn(stream, pico_folder, tmp_path, "--rates", "0.003", *words))
    assert code == 2
    assert found is None
    assert message in " ".join(told.split())


def test_a_dry_run_says_what_would_be_done(ask, stream, pico_folder, tmp_path):
    code, found, _ = ask(*learn(stream, pico_folder, tmp_path, "--dry-run"))
    assert code == 0
    assert found["plan"]["rows"]["task1"] == [18, 6, 8]
    assert not (tmp_path / "run").exists()


def test_a_learner_of_changed_members_is_refused(ask, stream, pico_folder, tmp_path):
    kept = ("--library", tmp_path / "library", "--as", "mind")
    ask(*learn(stream, pico_folder, tmp_path, "--methods", "uniform", "--rates", "0.003", "--orders", "1", *kept))
    card = next((tmp_path / "library" / "routers" / "mind-routing").glob("card.json"))
    raw = json.loads(card.read_text())
    raw["card"]["base"] = "another"
    card.write_text(json.dumps(raw))
    code, _, told = ask("continual", "eval", stream, "--model", f"{tmp_path}/library#mind", "--dtype", "float32")
    assert code == 2
    assert "of another base" in " ".join(told.split())


def test_one_adapter_that_goes_on_is_kept_under_a_further_name(ask, stream, pico_folder, tmp_path):
    kept = ("--library", tmp_path / "library", "--as", "mind")
    ask(*learn(stream, pico_folder, tmp_path, "--methods", "sequential", "--rates", "0.003", "--orders", "1", *kept))
    new = write_tasks(tmp_path / "new", 2, first=3)
    words = ("--model", f"{tmp_path}/library#mind", "--out", tmp_path / "add", "--dtype", "float32", "--threads", "1")
    code, grown, told = ask("continual", "add", new, *words)
    assert code == 0, told
    assert grown["changed"] == ["mind-shared"]
    assert set(Library(tmp_path / "library", read_only=True)) == {"mind-shared-2"}
    code, judged, told = ask("continual", "eval", new, "--model", f"{tmp_path}/library#mind", "--dtype", "float32")
    assert code == 0, told
    assert judged["skipped"]["task3"] > 0


@pytest.mark.parametrize("after", [2, 8])
def test_a_run_that_is_interrupted_goes_on_to_the_same_end(ask, stream, pico_folder, tmp_path, monkeypatch, after):
    """Inside the first fit, and between two tasks; what comes out is the same to the last bit."""
    methods = ("--methods", "l2r,replay", "--rates", "0.003", "--orders", "1")
    _, whole, _ = ask(*learn(stream, pico_folder, tmp_path / "whole", *methods))
    steps, log = [], StepBar.log

    def stopping(bar, step, values):
        log(bar, step, values)
        if "loss" in values:
            steps.append(step)
            if len(steps) == after:
                raise KeyboardInterrupt

    monkeypatch.setattr(StepBar, "log", stopping)
    code, _, _ = ask(*learn(stream, pico_folder, tmp_path / "cut", *methods))
    assert code == 130
    monkeypatch.setattr(StepBar, "log", log)
    _, cut, _ = ask(*learn(stream, pico_folder, tmp_path / "cut", *methods))
    for name, each in whole["methods"].items():
        assert {**cut["methods"][name], "seconds": 0} == {**each, "seconds": 0}
    ends = [sorted(place.rglob("2-*.safetensors")) for place in (tmp_path / "whole", tmp_path / "cut")]
    assert [file.name for file in ends[0]] == [file.name for file in ends[1]]
    assert all(one.read_bytes() == other.read_bytes() for one, other in zip(*ends, strict=True))


RECIPES = [file for file in sorted((ROOT / "recipes" / "paper").glob("*.toml")) if "continual run" in file.read_text()]


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda file: file.stem)
def test_recipes_of_papers_say_what_would_be_done(ask, stream, pico_folder, tmp_path, recipe):
    """On a stand-in for the stream and the base: the names are the commands' own, and the numbers are within bounds."""
    order = [line for line in recipe.read_text().splitlines() if line.startswith("order =")]
    named = ("--order", "task2", "task1") if order else ()
    small = ("--text-tokens", "56", "--template", " :", "--model", pico_folder, "--out", tmp_path / "run")
    code, found, told = ask("continual", "run", stream, "--config", recipe, *small, *named, "--dry-run")
    assert code == 0, told
    assert found["plan"]["rows"]["task1"][0] > 0


def test_a_rate_that_diverges_is_not_chosen(ask, stream, pico_folder, tmp_path):
    words = ("--methods", "sequential", "--orders", "1", "--passes", "20", "--rates", "0.003", "1e6")
    code, found, told = ask(*learn(stream, pico_folder, tmp_path, *words))
    assert code == 0, told
    assert found["methods"]["sequential"]["rate"] == 0.003
    words = ("--methods", "sequential", "--orders", "1", "--passes", "20", "--rates", "1e7", "1e6")
    code, _, told = ask(*learn(stream, pico_folder, tmp_path / "all", *words))
    assert code == 2
    assert "diverges at every rate" in " ".join(told.split())
