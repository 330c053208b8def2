"""Faults: torn and foreign checkpoints, a full disk at every write, kill -9 at random moments."""

import contextlib
import errno
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import LONG, Toy

from collegium.core.errors import ConfigError, ResourceError
from collegium.train import Checkpoints, checkpoints


def trained_until(folder: Path, step: int, every: int = 5) -> None:
    Toy().fit(checkpoints=Checkpoints(folder, "toy", every=every), until=step)


def steps_kept(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_last_two_are_kept(tmp_path):
    trained_until(tmp_path, 20)
    assert steps_kept(tmp_path) == ["step-00000015", "step-00000020"]


def test_a_checkpoint_of_another_configuration_is_refused_and_stays(tmp_path):
    trained_until(tmp_path, 20)
    with pytest.raises(ConfigError, match="another configuration or other data"):
        Toy().fit(checkpoints=Checkpoints(tmp_path, "other"))
    assert steps_kept(tmp_path) == ["step-00000015", "step-00000020"]


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-3])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


@pytest.mark.parametrize("damage", [truncate, flip, Path.unlink])
@pytest.mark.parametrize("name", ["weights.safetensors", "second.safetensors", "state.json"])
def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(tmp_path, damage, name):
    trained_until(tmp_path, 20)
    damage(tmp_path / "step-00000020" / name)
    found = Checkpoints(tmp_path, "toy").latest()
    if (damage, name) == (flip, "state.json"):  # its last byte is white space
        assert found is None or found.step in {15, 20}
    else:
        assert found is not None
        assert found.step == 15
    toy, unbroken = Toy(), Toy()
    toy.fit(checkpoints=Checkpoints(tmp_path, "toy"))
    unbroken.fit()
    assert all(torch.equal(toy.weights[each], unbroken.weights[each]) for each in toy.weights)


def test_with_all_damaged_the_fit_begins_anew(tmp_path):
    trained_until(tmp_path, 20)
    for path in tmp_path.rglob("best.safetensors"):
        truncate(path)
    assert Checkpoints(tmp_path, "toy").latest() is None
    assert steps_kept(tmp_path) == []


def test_remains_of_a_killed_write_are_cleared_away(tmp_path):
    trained_until(tmp_path, 20)
    (tmp_path / ".staging-abc").mkdir()
    Checkpoints(tmp_path, "toy").latest()
    assert steps_kept(tmp_path) == ["step-00000015", "step-00000020"]


def test_a_full_disk_at_any_write_leaves_the_last_good_checkpoint(tmp_path, monkeypatch):
    good = tmp_path / "good"
    trained_until(good, 5)
    calls, limit = 0, 0

    def write(path, content):
        nonlocal calls
        calls += 1
        if calls == limit:
            true(path, content[: len(content) // 2])
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        true(path, content)

    true = checkpoints.write_new
    monkeypatch.setattr(checkpoints, "write_new", write)
    for limit in range(1, 7):  # five tensor files and a state
        folder, calls = tmp_path / f"at-{limit}", 0
        shutil.copytree(good, folder)
        with pytest.raises(ResourceError, match="no space left"):
            trained_until(folder, 10)
        found = Checkpoints(folder, "toy").latest()
        assert found is not None
        assert found.step == 5
        assert steps_kept(folder) == ["step-00000005"]
    calls, limit = 0, 0
    trained_until(good, 10)
    assert calls == 6


@contextlib.contextmanager
def largest_file(limit_bytes: int):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_limit_on_the_size_of_files_leaves_the_last_good_checkpoint(tmp_path):
    trained_until(tmp_path, 5)
    with largest_file(100), pytest.raises(ResourceError, match="no space left"):
        trained_until(tmp_path, 10)
    assert steps_kept(tmp_path) == ["step-00000005"]
    trained_until(tmp_path, 10)
    assert steps_kept(tmp_path) == ["step-00000005", "step-00000010"]


def test_two_fits_at_once_cannot_share_checkpoints(tmp_path, monkeypatch):
    monkeypatch.setattr(checkpoints, "_WAIT_SECONDS", 0.05)
    shared = Checkpoints(tmp_path / "new", "toy")
    with shared.held(), pytest.raises(ResourceError, match=r"another process has held .*new for .*run again"):
        Toy().fit(checkpoints=shared)
    Toy().fit(checkpoints=shared)
    assert steps_kept(tmp_path / "new") == ["step-00000020", "step-00000040"]


KILLS = 5


def test_killed_at_random_moments_the_weights_are_those_of_an_unbroken_fit(tmp_path):
    moments = random.Random(0)
    command = [sys.executable, str(Path(__file__).with_name("toy.py")), str(tmp_path)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment) as parent:
        assert parent.stdin is not None
        assert parent.stdout is not None
        for kill in range(KILLS + 1):
            parent.stdin.write(b"go\n")
            parent.stdin.flush()
            ready, child = parent.stdout.readline().split()
            assert ready == b"ready"
            if kill < KILLS:
                time.sleep(moments.uniform(0, 0.04))
                os.kill(int(child), signal.SIGKILL)
            ended, status = parent.stdout.readline().split()
            assert (ended, int(status)) == (b"ended", signal.SIGKILL if kill < KILLS else 0)
            assert (tmp_path / "done.safetensors").exists() == (kill == KILLS)
        parent.stdin.close()
    unbroken = Toy()
    unbroken.fit(LONG)
    weights = load_file(tmp_path / "done.safetensors")
    assert all(torch.equal(weights[name], unbroken.weights[name]) for name in weights)
