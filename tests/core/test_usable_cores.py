"""How many threads a command takes where nothing is said."""

import os

import pytest
import torch

from collegium.core.machine import usable_cores
from collegium.recipes.common import Common


def test_a_command_takes_the_cores_that_its_process_may_use(monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 64)
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: {0}, raising=False)
    assert usable_cores() == 1


@pytest.mark.parametrize(("said", "most"), [("1", 1), ("", 4096), ("0", 4096), ("2,1", 4096), ("999", 4096)])
def test_the_environment_bounds_them(monkeypatch, said, most):
    monkeypatch.setenv("OMP_NUM_THREADS", said)
    assert 1 <= usable_cores() <= most


def test_threads_that_are_asked_for_are_taken(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    assert Common().apply_threads() == torch.get_num_threads() == 1
    assert Common(threads=2).apply_threads() == torch.get_num_threads() == 2
