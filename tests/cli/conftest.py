"""A pico base on disk, two small domains, and the command line called in this process."""

import json
import shutil
from pathlib import Path

import pytest
from composition_world import fill_world
from reward_world import fit_words, write_pairs

from collegium.cli.main import main
from collegium.models import load_base
from collegium.rewards import DESIGNS
from collegium.testing.library import snapshot
from collegium.testing.pico import pico_base


@pytest.fixture(scope="session")
def pico_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = pico_base()
    folder = tmp_path_factory.mktemp("bases") / "pico"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    for name, line in (("law", "Article {n}. All persons are equal before it.\n"), ("code", "def f{n}(x): return x\n")):
        (root / name).mkdir()
        for number in range(12):
            (root / name / f"{number:02}.txt").write_text(line.replace("{n}", str(number)) * 6)
    return root


@pytest.fixture
def ask(capsys):
    """Return a function that runs a command with --json: exit code, object, what people read."""

    def call(*words):
        capsys.readouterr()
        code = main([*map(str, words), "--json"])
        shown = capsys.readouterr()
        return code, json.loads(shown.out.splitlines()[-1]) if shown.out else None, shown.err

    return call


@pytest.fixture(scope="module")
def folders(pico_folder, tmp_path_factory):
    """The folders of two bases of one build."""
    other = tmp_path_factory.mktemp("other") / "other"
    made = pico_base(1)
    made.model.save_pretrained(other)
    made.tokenizer.save_pretrained(other)
    return {"pico": str(pico_folder), "other": str(other)}


@pytest.fixture(scope="module")
def bases(folders):
    return {name: load_base(folder) for name, folder in folders.items()}


@pytest.fixture(scope="module")
def libraries(folders, bases, texts, tmp_path_factory):
    """Libraries of every sort, side by side; nothing in this file changes them."""
    root = fill_world(tmp_path_factory.mktemp("world"), folders, bases)
    for path in shutil.copytree(texts, root / "texts").rglob("*.txt"):
        path.write_text(path.read_text() * 5)  # longer than the base reads
    return root


@pytest.fixture
def world(libraries, monkeypatch):
    monkeypatch.chdir(libraries)
    return libraries


@pytest.fixture
def refused(ask, world):
    """Return a function that asks for a mistake and looks at its answer."""

    def call(*words, says, root=world):
        before, folders = snapshot(root), set(root.rglob("*/"))
        code, found, shown = ask(*words)
        told = " ".join(shown.replace("│", " ").split())
        assert (code, found) == (2, None), told
        assert "Traceback" not in told
        assert len(told) < 900
        for part in (says,) if isinstance(says, str) else says:
            assert part in told
        assert snapshot(root) == before
        assert set(root.rglob("*/")) == folders

    return call


@pytest.fixture(scope="session")
def pairs(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs") / "pairs", "law", "code")


@pytest.fixture(scope="session")
def judged_once(pico_folder, pairs, tmp_path_factory):
    root = tmp_path_factory.mktemp("judged")
    for design in DESIGNS:
        out = ("--out", root / "runs" / design)
        assert main(fit_words(pairs, root / "college", design, design, pico_folder, *out)) == 0
    return root / "college"


@pytest.fixture
def judged(judged_once, tmp_path, monkeypatch):
    """A library with a reward model of every design, named after it, in the folder where commands run."""
    monkeypatch.chdir(tmp_path)
    return shutil.copytree(judged_once, tmp_path / "college")
