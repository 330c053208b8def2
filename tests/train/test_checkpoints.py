"""Faults: torn and foreign checkpoints, a full disk at every write, kill -9 at random moments."""

import errno
import os
import random
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from toy import CONFIG, LONG, Toy

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
    for limit in range(1, 6):  # four tensor files and a state
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
    assert calls == 5


def killed_and_resumed(folder: Path, kills: int, seed: int) -> dict[str, torch.Tensor]:
    moments = random.Random(seed)
    folder.mkdir()
    command = [sys.executable, str(Path(__file__).with_name("toy.py")), str(folder)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    for _ in range(kills):
        child = subprocess.Popen(command, stdout=subprocess.PIPE, env=environment)
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        time.sleep(moments.uniform(0, 0.1))
        child.kill()
        child.wait()
        child.stdout.close()
        assert not (folder / "done.safetensors").exists()
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
    return load_file(folder / "done.safetensors")


def test_killed_at_ten_random_moments_the_weights_are_those_of_an_unbroken_fit(tmp_path):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    unbroken = Toy()
    unbroken.fit(LONG)
    torch.set_num_threads(threads)
    with ThreadPoolExecutor(2) as pool:
        chains = list(pool.map(lambda seed: killed_and_resumed(tmp_path / str(seed), 5, seed), (1, 2)))
    for weights in chains:
        assert all(torch.equal(weights[name], unbroken.weights[name]) for name in weights)
    assert CONFIG != LONG
