"""The comparison with PEFT, a router and a loop: lines are counted by the rule, both sides read the same tokens."""

import importlib
import importlib.util
import json
import os
import runpy
import shlex
import subprocess
import sys
from pathlib import Path
from string import Template

import pytest

from collegium.cli.main import main
from collegium.testing.pico import byte_tokenizer, pico_base

ROOT = Path(__file__).parent.parent.parent
FOLDER = ROOT / "bench" / "compared"
SMALL = [
    *("--layers", "1", "--rank", "2", "--steps", "4", "--evaluate-every", "2", "--window", "64", "--context", "16"),
    *("--dev-tokens", "128", "--snippets", "60", "--threads", "1"),
]


def module(path):
    spec = importlib.util.spec_from_file_location(f"compared_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(found)
    return found


@pytest.fixture(scope="module")
def lines():
    return module(FOLDER / "lines.py")


@pytest.fixture(scope="module")
def tables():
    return module(ROOT / "scripts" / "compared_tables.py")


@pytest.fixture
def texts(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    yield importlib.import_module("texts")
    for name in ("texts", "settings"):
        sys.modules.pop(name, None)


SOURCE = '''"""A module.

It has two lines.
"""
import os  # used below

LETTER = """Dear all,

yours"""


class Thing:
    """A thing."""

    # what it does
    @property
    def size(self):
        """Its size."""
        return max(
            1,
            2,
        )
'''


def test_lines_that_hold_code_are_counted_and_no_others(lines, tmp_path):
    file = tmp_path / "thing.py"
    file.write_text(SOURCE)
    assert sorted(lines.code_lines(SOURCE)) == [5, 7, 8, 9, 12, 16, 17, 19, 20, 21, 22]
    assert lines.count_lines(file) == {"all": 11, "size": 6}


def test_blank_lines_comments_and_docstrings_change_no_count(lines):
    more = SOURCE.replace("    @property", "\n    # more\n\n    @property").replace(
        "Its size.", "Its size.\n\n        x\n"
    )
    assert len(lines.code_lines(more)) == len(lines.code_lines(SOURCE))
    assert len(lines.code_lines(SOURCE + "\nx = 1\n")) == len(lines.code_lines(SOURCE)) + 1
    assert len(lines.code_lines('x = "# no comment"\n"a statement"\n')) == 2


def test_lines_of_a_script_are_counted(lines, tmp_path):
    file = tmp_path / "run.sh"
    file.write_text("#!/bin/bash\n# words\n\nls\n  # more\n  ls -l\n")
    assert lines.count_lines(file) == {"all": 2}


def test_every_function_of_either_side_belongs_to_one_job(lines, tables):
    jobs = [name for names in tables.JOBS.values() for name in names]
    assert len(jobs) == len(set(jobs))
    functions = set()
    for name in ("with_peft.py", "with_collegium.py"):
        functions |= set(lines.count_lines(FOLDER / name)) - {"all"}
    assert functions == {*jobs, "__init__", "main"}


def result(lines):
    """A result as `compare.py` writes it, with figures that are easily told apart."""
    perplexity = {"code": 4.0, "drama": 9.0}
    phases = {"start": 5.0, "train": 100.0, "open": 0.5, "evaluate": 14.5}
    memory = {"train": 1200, "evaluate": 800, "serve": 700}
    changed = {"remove_seconds": 0.25, "add_seconds": 3.0, "largest_change_nats": 0.0}
    return {
        "date": "2026-01-31",
        "command": "python compare.py",
        "machine": "a machine",
        "versions": {"peft": "0.21"},
        "settings": {
            "rank": 16,
            "layers": 10,
            "steps": 48,
            "batch": 4,
            "window": 128,
            "learning_rate": 1e-3,
            "dtype": "float32",
            "seed": 0,
        },
        "lines": {name: lines.count_lines(FOLDER / name) for name in ("with_peft.py", "with_collegium.py")}
        | {"with_collegium.sh": {"all": 5}},
        "tokens": {"code": 1000, "drama": 20},
        "base_apart": 2e-7,
        "quality": [
            {"name": "base", "perplexity": perplexity, "accuracy": None},
            {"name": "ours", "perplexity": perplexity, "accuracy": 0.975},
        ],
        "seconds": {"PEFT and scikit-learn": {**phases, "fit the router": 12.0}, "Collegium": phases},
        "memory_mb": {"PEFT and scikit-learn": memory, "Collegium": {**memory, "train": 900}},
        "speed": [
            {"shape": "read one text", "contestant": name, "tokens": 8, "min_ms": ms, "median_ms": ms + 0.5}
            for name, ms in (("PEFT", 1.0), ("mix posterior", 2.0))
        ],
        "changes": {"PEFT and scikit-learn": changed, "Collegium": {**changed, "add_seconds": 0.01}},
        "seconds_in_all": 600.0,
    }


def test_tables_say_what_was_measured(lines, tables):
    written = {mark: write(result(lines)).splitlines() for mark, write in tables.TABLES.items()}
    assert "| fit the router | 12 | - |" in written["minutes"]
    assert "| **all, in minutes** | 2.2 | 2.0 |" in written["minutes"]
    assert "| base | 4.00 | 9.00 | 6.00 | - |" in written["quality"]
    assert any(line.startswith("| ours | 4.00 | 9.00 | 6.00 | 9") for line in written["quality"])
    assert "| read one text | 1.00 (1.50) | 2.00 (2.50) |" in written["speed"]
    assert "| while training | 1,200 | 900 |" in written["memory"]
    assert "| take in a trained expert, seconds | 3.0 | 0.01 |" in written["changes"]
    for table in written.values():
        assert len({line.count("|") for line in table if line.startswith("|")}) == 1


def test_lines_of_the_jobs_and_the_rest_are_those_of_the_file(lines, tables):
    rows = [line.split(" | ") for line in tables.lines(result(lines)).splitlines() if line.startswith("|")][2:]
    for column in (1, 2):
        *parts, whole = [row[column].strip(" |") for row in rows]
        assert sum(int(part) for part in parts if part != "-") == int(whole)


def test_an_excerpt_leaves_no_token_that_nothing_predicts(texts):
    tokenizer = byte_tokenizer()
    for length in (63, 64, 65, 129, 200):
        for budget in (64, 65, 129):
            found = texts.excerpt("x" * length, tokenizer, window=64, tokens=budget)
            assert 0 < len(found) <= min(length, budget)
            assert len(found) % 64 != 1


def test_held_out_texts_are_of_documents_that_neither_side_learns_from(texts, tmp_path, small_texts):
    from settings import Settings

    found = texts.prepare(
        small_texts, tmp_path / "out", byte_tokenizer(), settings=Settings(window=64, context=16), tokens=512
    )
    for domain in ("code", "drama", "law"):
        learnt = {
            json.loads(line)["text"]
            for part in ("train", "dev")
            for line in (found.data / part / f"{domain}.jsonl").read_text().splitlines()
        }
        judged = [json.loads(line)["text"] for line in (found.held_out / f"{domain}.jsonl").read_text().splitlines()]
        assert judged
        assert not any(text in document for text in judged for document in learnt)
    assert len(found.windows) == len(found.prompts) == 3
    assert {len(window) for window in found.windows} == {64}


@pytest.fixture(scope="module")
def small_texts(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    lines = {"code": "def f{}(x): return x\n", "drama": "Enter KING {}. What news?\n", "law": "Article {}. Be it so.\n"}
    for name, line in lines.items():
        (folder / name).mkdir()
        for number in range(24):
            text = "".join(line.format(number * 40 + place) for place in range(20))
            (folder / name / f"{number}.txt").write_text(text)
    return folder


@pytest.fixture(scope="module")
def small_base(tmp_path_factory):
    base, folder = pico_base(), tmp_path_factory.mktemp("base")
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


def run(*words):
    """Run a script of the comparison as a user would; return what it wrote."""
    paths = {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
    surroundings = {**os.environ, **paths, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, env=surroundings, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture
def here(monkeypatch, capsys):
    """Run a script of the comparison in this process; return what it wrote."""

    def run_here(script, *words):
        monkeypatch.syspath_prepend(FOLDER)
        monkeypatch.setattr(sys, "argv", [str(word) for word in (script, *words)])
        runpy.run_path(str(script), run_name="__main__")
        return capsys.readouterr().out

    return run_here


@pytest.mark.recipe
def test_the_whole_comparison_runs_and_reads_the_same_tokens(small_base, small_texts, tables, tmp_path):
    out = tmp_path / "result.json"
    few = ["--held-out-tokens", "512", "--new-tokens", "4", "--repeats", "1", "--dtype", "float32"]
    places = ["--work", tmp_path / "work", "--out", out, "--base", small_base, "--texts", small_texts]
    run(sys.executable, FOLDER / "compare.py", *places, *few, *SMALL)
    found = json.loads(out.read_text())
    assert found["base_apart"] < 1e-3
    assert found["changes"]["Collegium"]["largest_change_nats"] == 0.0
    rows = {row["name"]: row for row in found["quality"]}
    assert len(rows) == 7
    routed = rows["PEFT adapters, scikit-learn router"]
    if routed["accuracy"] == 1.0:  # each text through its own adapter is never better than the best adapter
        best = rows["oracle: the best PEFT adapter of each domain"]["perplexity"]
        assert all(routed["perplexity"][domain] > 0.9999 * best[domain] for domain in best)
    assert {row["contestant"] for row in found["speed"]} == {"PEFT", "mix posterior", "ensemble posterior"}
    assert all(write(found) for write in tables.TABLES.values())


@pytest.mark.recipe
@pytest.mark.filterwarnings("default")  # what the peer and transformers say of each other
def test_the_peer_runs_alone(small_base, small_texts, texts, here, tmp_path):
    from settings import Settings

    how = Settings(window=64, context=16)
    found = texts.prepare(small_texts, tmp_path, byte_tokenizer(), settings=how, tokens=512)
    places = [small_base, found.data, found.held_out, tmp_path / "college"]
    said = json.loads(here(FOLDER / "with_peft.py", *places, *SMALL).splitlines()[-1])
    assert set(said["routed"]) == set(said["base"]) == {"code", "drama", "law"}
    assert 0 <= said["accuracy"] <= 1


@pytest.mark.recipe
def test_ours_runs_alone(small_base, small_texts, here, tmp_path):
    places = [small_base, small_texts, small_texts, tmp_path / "library"]
    said = json.loads(here(FOLDER / "with_collegium.py", *places, *SMALL).splitlines()[-1])
    assert set(said["composed"]) == {"code", "drama", "law"}


@pytest.mark.recipe
def test_the_commands_run(small_base, small_texts, tmp_path, capsys):
    """In this process, line by line: the shell adds nothing but a start of Python for each."""
    flags = ["--layers", "top:1", "--rank", "2", "--steps", "3", "--window", "64", "--dev-tokens", "128"]
    places = {"base": small_base, "texts": small_texts, "held_out": small_texts, "library": tmp_path / "library"}
    script = (FOLDER / "with_collegium.sh").read_text()
    lines = [shlex.split(line) for line in script.splitlines() if line.startswith("collegium ")]
    assert [words[1] for words in lines] == ["train", "eval", "generate"]
    for words in lines:
        given = [Template(word).substitute(places) for word in words[1:] if word != "${@:5}"]
        assert main([*given, *(flags if words[-1] == "${@:5}" else [])]) == 0
    assert "perplexity" in capsys.readouterr().out
    assert (tmp_path / "library" / "experts" / "drama").is_dir()
