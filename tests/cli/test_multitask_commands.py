"""`multitask fit / run / eval`, `generate` and `eval` of what they keep: answers, files, and what is refused."""

import json
import random
import shutil

import pytest

from collegium.cli.main import main
from collegium.library import Library
from collegium.tasks.multitask import METHODS
from collegium.testing.library import snapshot

SAME = ("--device", "cpu", "--dtype", "float32", "--threads", "1")
QUICK = (
    *("--text-tokens", "24", "--rank", "2", "--passes", "1", "--train-rows", "16", "--dev-rows", "4"),
    *("--test-rows", "6", "--layers", "top:1", "--learning-rate", "1e-2"),
)
MAP = "Whose adapter each task&#39;s texts use"
FIELDS = {"average_accuracy", "accuracy", "perplexity"}


def write_task(root, name, rows):
    root.mkdir(parents=True, exist_ok=True)
    (root / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def moods(many=50):
    draw = random.Random(0)
    stems = ["".join(draw.choice("abcdef ") for _ in range(8)) for _ in range(many)]
    return [{"text": f"{stem}{'xy'[n % 2]}", "label": ("up", "down")[n % 2]} for n, stem in enumerate(stems)]


def counts(many=50):
    return [{"prompt": f"count {n}:", "completion": " " + "ab"[n % 2] * 3} for n in range(many)]


def picks(many=50):
    rows = [("pq"[n % 2], n) for n in range(many)]
    return [{"prompt": f"pick {at}{n}", "completion": f" {at}", "choices": [" p", " q"]} for at, n in rows]


@pytest.fixture(scope="session")
def task_folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("tasks") / "tasks"
    for name, rows in (("mood", moods()), ("count", counts()), ("pick", picks())):
        write_task(root, name, rows)
    (root / "sources.json").write_text(json.dumps({"domains": {"mood": [{"name": "made up", "licence": "none"}]}}))
    return root


def fit_words(tasks, base, library="college", name="many"):
    return [*map(str, ("multitask", "fit", tasks, "--library", library, "--as", name, "--base", base)), *SAME, *QUICK]


@pytest.fixture(scope="session")
def learnt_once(task_folder, pico_folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("learnt")
    words = fit_words(task_folder, pico_folder, library=root / "college")
    assert main([*words, "--out", str(root / "out"), "--json"]) == 0
    return root


@pytest.fixture
def learnt(learnt_once, tmp_path, monkeypatch):
    shutil.copytree(learnt_once / "college", tmp_path / "college")
    monkeypatch.chdir(tmp_path)
    return Library("college", read_only=True)


def test_a_fit_is_one_expert_with_a_card_and_measurements(learnt):
    assert learnt.verify() == {}
    assert list(learnt) == ["many"]
    card = learnt.card("many")
    assert card.kind == "mta"
    assert [source.name for source in card.sources] == ["made up"]
    curves, found = learnt.metrics("many")
    assert set(curves["fits"]) == {"task-count", "task-mood", "task-pick", "gates", "router"}
    for each in ("before", "after", "routed"):
        assert set(found[each]) == FIELDS
    assert found["before"]["perplexity"]["count"] > found["after"]["perplexity"]["count"]


def test_the_page_of_a_fit_holds_its_tables_and_the_map_of_weights(learnt_once, learnt):
    page = (learnt_once / "out" / "report.html").read_text()
    _, found = learnt.metrics("many")
    assert list(found["weights"]) == ["count", "mood", "pick"]
    for row in found["weights"].values():
        assert list(row) == ["count", "mood", "pick"]
        assert sum(row.values()) == pytest.approx(1, abs=1e-3)
        assert all(f">{share:.2f}</text>" in page for share in row.values())
    for heading in (MAP, "Accuracy by task", "Perplexity by task", "The two stages of alter"):
        assert f"<h2>{heading}</h2>" in page
    accuracies = (found["before"]["accuracy"]["mood"], found["after"]["accuracy"]["mood"], found["floor"]["mood"])
    assert all(f"<td>{each:.3f}</td>" in page for each in accuracies)
    for stage in ("intra", "inter"):
        numbers, seconds = found["stages"][f"{stage}_parameters"], found["stages"][f"{stage}_seconds"]
        assert f"<td>{numbers:,}</td>" in page
        assert f"<td>{seconds:.1f}</td>" in page


def test_a_fit_ends_with_the_documented_object(ask, task_folder, pico_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = fit_words(task_folder, pico_folder)
    code, found, _ = ask(*words, "--dry-run")
    assert code == 0
    assert found["plan"]["rows"] == {"count": 16, "mood": 16, "pick": 16}
    assert not list(tmp_path.iterdir())
    code, found, shown = ask(*words, "--order", "pick", "mood")
    assert code == 0, shown
    assert found["tasks"] == ["pick", "mood"]
    assert {"before", "after", "routed", "routing_accuracy", "weights", "stages", "floor", "cut_prompts"} <= set(found)
    assert "second stage" in shown
    assert not list(tmp_path.glob("runs/*/checkpoints"))
    code, _, shown = ask(*words)
    assert code == 2
    assert "already" in shown


def test_what_was_learnt_speaks_and_says_which_task(ask, learnt):
    code, found, _ = ask("generate", "pick q9", "--model", "college#many", "--tokens", 4, *SAME)
    assert code == 0
    assert set(found["speakers"]) == {"count", "mood", "pick"}
    assert sum(found["speakers"].values()) == pytest.approx(1, abs=1e-3)
    assert found["task"]["name"] == "pick"
    assert 0 < found["task"]["probability"] <= 1
    code, found, _ = ask("generate", "pick q9", "--model", "college#many", "--task", "mood", "--tokens", 4, *SAME)
    assert (code, found["task"]) == (0, {"name": "mood", "probability": None})


def test_eval_gives_the_documented_object(ask, learnt, task_folder):
    code, found, shown = ask("multitask", "eval", task_folder, "--model", "college#many", "--test-rows", 6, *SAME)
    assert code == 0, shown
    assert set(found) >= FIELDS
    assert set(found["routed"]) == set(found["before"]) == FIELDS
    assert found["accuracy"]["count"] is None
    assert set(found["routing_accuracy"]) == {"count", "mood", "pick"}
    _, kept = learnt.metrics("many")
    for each, ours in (("before", found["before"]), ("after", found), ("routed", found["routed"])):
        for task, value in kept[each]["perplexity"].items():
            assert ours["perplexity"][task] == pytest.approx(value, rel=1e-3), (each, task)
    code, found, _ = ask("multitask", "eval", task_folder, "--model", "college#base", "--test-rows", 6, *SAME)
    assert code == 0
    assert "routed" not in found
    assert found["perplexity"] == found["before"]["perplexity"]


def test_plain_eval_scores_what_the_expert_has_not_seen(ask, learnt, task_folder, tmp_path):
    write_task(tmp_path / "few", "count", counts())
    words = ("eval", tmp_path / "few", "--model", "college#many", "--context", 1, "--no-answers", *SAME)
    code, found, shown = ask(*[word for word in words if word != "--no-answers"])
    assert code == 0, shown
    assert found["composed"]["count"] < found["base"]["count"]
    assert found["skipped_documents"] > 0


def test_a_library_with_others_beside_it_still_composes(learnt, pico_folder):
    from collegium.compose import ensemble
    from collegium.core.errors import LibraryError
    from collegium.models import load_base
    from collegium.testing.pico import random_expert

    base = load_base(str(pico_folder), dtype="float32")
    with pytest.raises(LibraryError, match="holds no language expert"):
        ensemble(base, learnt)
    library = Library("college", base=base)
    library.add(random_expert(base, name="law"))
    from collegium.routers import uniform

    assert set(ensemble(base, library, router=uniform()).experts) == {"law"}


@pytest.mark.recipe
def test_run_compares_all_methods(ask, task_folder, pico_folder, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, found, shown = ask("multitask", "run", task_folder, "--model", pico_folder, *SAME, *QUICK)
    assert code == 0, shown
    assert list(found["methods"]) == ["base", *METHODS]
    for row in found["methods"].values():
        assert set(row) == {*FIELDS, "parameters", "seconds"}
        assert set(row["accuracy"]) == {"count", "mood", "pick"}
    assert set(found["floor"]) == {"count", "mood", "pick"}
    assert set(found["weights"]) == {"count", "mood", "pick"}
    (page,) = tmp_path.glob("runs/*/report.html")
    assert (page.parent / "run.json").is_file()
    shown = page.read_text()
    assert f"<h2>{MAP}</h2>" in shown
    assert all(f"<td>{name}{'*' if method.told else ''}</td>" in shown for name, method in METHODS.items())
    assert all(f"<td>{row['parameters']:,}</td>" in shown for row in found["methods"].values())
    code, few, _ = ask("multitask", "run", task_folder, "--model", pico_folder, "--methods", "shared", *SAME, *QUICK)
    assert list(few["methods"]) == ["base", "shared"]
    assert not {"weights", "stages"} & set(few)
    (without,) = set(tmp_path.glob("runs/*/report.html")) - {page}
    assert MAP not in without.read_text()
    assert few["methods"]["shared"]["perplexity"] == found["methods"]["shared"]["perplexity"]


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("multitask", "run", "tasks", "--methods", "altar"), "Did you mean 'alter'"),
        (("multitask", "run", "tasks", "--methods", "shared,shared"), "each method once"),
        (("multitask", "run", "tasks", "--budget", "5m"), "`reduced` or `full`"),
        (("multitask", "run", "tasks", "--order", "mood"), "from two on, got mood"),
        (("multitask", "run", "tasks", "--order", "mood", "count", "mood"), "each task comes once"),
        (("multitask", "run", "tasks", "--order", "mod", "count"), "Did you mean 'mood'"),
        (("multitask", "run", "one", "--dtype", "float32"), "has 1 label"),
        (("multitask", "eval", "tasks", "--model", "college#many", "--task", "pik"), "Did you mean 'pick'"),
        (("multitask", "eval", "other", "--model", "college#many"), "has not learnt the task 'weather'"),
        (("multitask", "eval", "tasks", "--model", "college#base", "--task", "pick"), "--task is for a model of many"),
        (("generate", "pick", "--model", "college#many", "--task", "pik"), "Did you mean 'pick'"),
        (("generate", "pick", "--model", "college#base", "--task", "pick"), "--task is for a model of many"),
        (("generate", "pick", "--model", "college#man"), "many"),
        (("generate", "pick", "--model", "college?experts=many"), "open it by itself"),
        (("data", "pull", "new", "--tasks", "cod"), "Did you mean 'code'"),
        (("data", "pull", "new", "--tasks", "code", "--labelled"), "name different data"),
    ],
)
def test_mistakes_are_answered_in_a_sentence(ask, learnt, task_folder, tmp_path, words, says):
    shutil.copytree(task_folder, tmp_path / "tasks")
    write_task(tmp_path / "one", "single", [{"text": f"{n}", "label": "one"} for n in range(40)])
    write_task(tmp_path / "one", "mood", moods())
    write_task(tmp_path / "other", "weather", counts())
    before = snapshot(tmp_path)
    code, found, shown = ask(*words)
    told = " ".join(shown.replace("│", " ").split())
    assert (code, found) == (2, None), told
    assert says in told
    assert "Traceback" not in told
    assert snapshot(tmp_path) == before


def test_a_base_that_was_put_in_anothers_place_is_refused(ask, learnt, folders, task_folder, tmp_path):
    manifest = tmp_path / "college" / "collegium.json"
    content = json.loads(manifest.read_text())
    content["base_reference"] = folders["other"]
    manifest.write_text(json.dumps(content))
    code, _, shown = ask("multitask", "eval", task_folder, "--model", "college#many", *SAME)
    assert code == 2
    assert "was made with, is" in " ".join(shown.split())
    other = fit_words(task_folder, folders["other"], name="more")
    code, _, shown = ask(*other)
    assert code == 2
    assert "is a library for base" in " ".join(shown.split())
