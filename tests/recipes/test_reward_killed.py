"""`collegium reward fit` killed without warning between two members and inside one: the same command goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from collegium.cli.main import main
from collegium.library import Library

pytestmark = [pytest.mark.recipe]

KILLED = """
import os, signal, sys
from collegium.cli.main import main
from collegium.recipes.building.training import StepBar
import collegium.recipes.rewarding.fit as recipe

at_fit, at_step, *words = sys.argv[1:]
begun = []

class Killing(StepBar):
    def __init__(self, update):
        super().__init__(update)
        begun.append(self)
        self.log(0, {"loss": 0.0})

    def log(self, step, values):
        if "loss" in values and (len(begun), step) == (int(at_fit), int(at_step)):
            os.kill(os.getpid(), signal.SIGKILL)

recipe.StepBar = Killing
sys.exit(main(words))
"""
FLAGS = ("--text-tokens", "48", "--passes", "1", "--rank", "4", "--layers", "top:1", "--threshold", "0")
MACHINE = ("--device", "cpu", "--dtype", "float32", "--threads", "1", "--seed", "0")


def killed(*words, fit, step):
    """Return how a process of its own ended that kills itself in so many steps of the so manieth fit."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(fit), str(step), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, check=False).returncode


def run(*words):
    return main([str(word) for word in words])


def contents(path: Path) -> dict[str, object]:
    library = Library(path)
    assert library.verify() == {}
    experts = {name: library.card(name).payload for name in library}
    return {"experts": experts, "models": {name: library.load_model(name) for name in library.model_names()}}


def command(folder: Path, base: Path, into: str) -> list[object]:
    words = ["reward", "fit", folder / "pairs", "--as", "j", "--base", base, *FLAGS, *MACHINE]
    return [*words, "--library", folder / into, "--out", folder / f"{into}-out"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory, pico_folder) -> Path:
    """Return a folder with pairs, and what an unbroken fit leaves."""
    folder = tmp_path_factory.mktemp("killed")
    rows = [f'{{"prompt": "{{name}} {n}?", "chosen": "abc{n}x", "rejected": "abc{n}y"}}\n' for n in range(40)]
    (folder / "pairs").mkdir()
    for name in ("law", "code"):
        (folder / "pairs" / f"{name}.jsonl").write_text("".join(rows).replace("{name}", name))
    assert run(*command(folder, pico_folder, "unbroken")) == 0
    return folder


@pytest.mark.parametrize(("fit", "step", "kept"), [(2, 3, 1), (3, 0, 2)])
def test_a_killed_fit_goes_on_to_what_an_unbroken_one_leaves(folder, pico_folder, fit, step, kept):
    name = f"broken-{fit}-{step}"
    broken = command(folder, pico_folder, name)
    assert killed(*broken, fit=fit, step=step) == -signal.SIGKILL
    library = Library(folder / name)
    assert (len(library), library.model_names(), library.verify()) == (kept, (), {})
    assert run(*broken) == 0
    assert contents(folder / name) == contents(folder / "unbroken")
    assert not list((folder / f"{name}-out").iterdir())
