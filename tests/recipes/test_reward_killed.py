"""`reward fit` and `reward grow` killed without warning between two fits and inside one: the same command goes on."""

import os
import shutil
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
import collegium.recipes.rewarding.fit as fit
import collegium.recipes.rewarding.grow as grow

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

fit.StepBar = grow.StepBar = Killing
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


@pytest.fixture(scope="module")
def grown(folder) -> Path:
    """Return a folder with pairs of a third domain, and what growth by it leaves."""
    rows = [f'{{"prompt": "poem {n}?", "chosen": "abc{n}x", "rejected": "abc{n}y"}}\n' for n in range(40)]
    (folder / "poem.jsonl").write_text("".join(rows))
    assert run(*growth(folder, "grown")) == 0
    return folder


def growth(folder: Path, into: str) -> list[object]:
    """Return the words of growth in a copy of the library that was fitted, made where it is not there yet."""
    if not (folder / into).exists():
        shutil.copytree(folder / "unbroken", folder / into)
    words = ["reward", "grow", folder / "poem.jsonl", "--model", f"{folder / into}#j", *MACHINE]
    return [*words, "--out", folder / f"{into}-out"]


@pytest.mark.parametrize(("fit", "step"), [(1, 3), (2, 0)])
def test_a_killed_growth_goes_on_to_what_an_unbroken_one_leaves(grown, fit, step):
    name = f"growth-{fit}-{step}"
    broken, fitted = growth(grown, name), contents(grown / "unbroken")
    assert killed(*broken, fit=fit, step=step) == -signal.SIGKILL
    left = contents(grown / name)
    assert left["models"] == fitted["models"]  # the model is what it was, and judges as it did
    assert fitted["experts"].items() <= left["experts"].items()
    assert run(*broken) == 0
    assert contents(grown / name) == contents(grown / "grown")
    assert not list((grown / f"{name}-out").iterdir())
