"""A pico base on disk, two small domains, and the command line called in this process."""

import json
from pathlib import Path

import pytest

from collegium.cli.main import main
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
