"""`collegium reward fit` killed without warning between two members and inside one: the same command goes on."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

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


def run(*words, fit=0, step=0):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", KILLED, str(fit), str(step), *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def contents(path: Path) -> dict[str, object]:
    library = Library(path)
    assert library.verify() == {}
    experts = {name: library.card(name).payload for name in library}
    return {"experts": experts, "models": {name: library.load_model(name) for name in library.model_names()}}


@pytest.mark.parametrize(("fit", "step", "kept"), [(2, 0, 1), (2, 3, 1), (3, 0, 2)])
def test_a_killed_fit_goes_on_to_what_an_unbroken_one_leaves(tmp_path, pico_folder, fit, step, kept):
    rows = [f'{{"prompt": "{{name}} {n}?", "chosen": "abc{n}x", "rejected": "abc{n}y"}}\n' for n in range(40)]
    (tmp_path / "pairs").mkdir()
    for name in ("law", "code"):
        (tmp_path / "pairs" / f"{name}.jsonl").write_text("".join(rows).replace("{name}", name))
    words = ["reward", "fit", tmp_path / "pairs", "--as", "j", "--base", pico_folder, *FLAGS, *MACHINE]

    def into(name):
        return [*words, "--library", tmp_path / name, "--out", tmp_path / f"{name}-out"]

    assert run(*into("unbroken")).returncode == 0
    assert run(*into("broken"), fit=fit, step=step).returncode == -signal.SIGKILL
    library = Library(tmp_path / "broken")
    assert (len(library), library.model_names(), library.verify()) == (kept, (), {})
    done = run(*into("broken"))
    assert done.returncode == 0, done.stderr
    assert contents(tmp_path / "broken") == contents(tmp_path / "unbroken")
    assert not list((tmp_path / "broken-out").iterdir())
