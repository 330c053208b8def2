"""Reward models that are interrupted, or have no place to be: nothing half made, and the same command goes on."""

import os

import pytest
from reward_world import SAME, fit_words, write_pairs

from collegium.cli.main import main
from collegium.library import Library
from collegium.rewards import DESIGNS


@pytest.fixture
def world(tmp_path, monkeypatch):
    """The folder where commands run."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def locked(monkeypatch):
    """Return a function that lets nothing be written below a folder any more, as for a user without the right."""
    really = os.open

    def lock(folder):
        def refusing(path, flags, *more, **named):
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and str(path).startswith(str(folder)):
                raise PermissionError(13, os.strerror(13), str(path))
            return really(path, flags, *more, **named)

        monkeypatch.setattr(os, "open", refusing)

    return lock


def test_a_library_that_cannot_be_written(refused, judged, world, pairs, pico_folder, locked):
    locked(judged)
    says = "Permission denied"
    refused(*fit_words(pairs, "college", "new", "joint", pico_folder, "--out", "."), says=says, root=judged)
    refused(
        "reward", "grow", write_pairs(world / "m", "film"), "--model", "college#rodos", *SAME, says=says, root=judged
    )
    assert main(["reward", "eval", str(pairs), "--model", "college#arliss", *SAME]) == 0, "it can be read still"


def interrupting(monkeypatch, *, at_fit, at_step):
    """Press Ctrl-C at a step of the n-th member that is fitted."""
    import collegium.recipes.rewarding.fit as recipe
    from collegium.recipes.building.training import StepBar

    begun = []

    class Stopping(StepBar):
        def __init__(self, update):
            super().__init__(update)
            begun.append(self)

        def log(self, step, values):
            super().log(step, values)
            if "loss" in values and (len(begun), step) == (at_fit, at_step):
                raise KeyboardInterrupt

    monkeypatch.setattr(recipe, "StepBar", Stopping)
    return begun


@pytest.mark.parametrize("design", DESIGNS)
def test_ctrl_c_is_answered_and_the_same_command_goes_on(
    ask, judged, world, pairs, pico_folder, monkeypatch, design, capsys
):
    """What comes of an interrupted fit is what an unbroken one makes, to the last bit."""
    words = fit_words(pairs, "new", design, design, pico_folder)
    at_fit = 2 if DESIGNS[design].grows else 1
    with monkeypatch.context() as patched:
        interrupting(patched, at_fit=at_fit, at_step=3)
        code, found, shown = ask(*words)
    assert (code, found) == (130, None)
    assert "run the same command again to go on" in " ".join(shown.split())
    library = Library(world / "new")
    assert len(library) == at_fit - 1
    assert library.model_names() == ()
    begun = interrupting(monkeypatch, at_fit=0, at_step=0)
    code, found, _ = ask(*words)
    assert code == 0
    assert len(begun) == {"joint": 1, "multi": 1, "more": 1, "rodos": 1, "arliss": 2}[design]
    assert sum(each["kept"] for each in found["members"].values()) == at_fit - 1
    unbroken = Library(judged)
    assert {name: library.expert_digest(name) for name in library} == {
        name: unbroken.expert_digest(name) for name in library
    }
    assert library.verify() == {}
