"""A fit that keeps its trunk comes to what it would anyway; what is not whole or not its own is never believed."""

import contextlib
import dataclasses
import resource
import signal
import subprocess
import sys
import tempfile
import textwrap
import warnings
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
from torch import Tensor

from collegium.core.errors import ConfigError, ResourceError
from collegium.data import Document
from collegium.experts import trunk_cache, trunk_file
from collegium.experts.fit import Trained, fit_documents
from collegium.experts.payloads import AdapterPayload
from collegium.experts.recipe import FitConfig, recipe_of, resolve
from collegium.experts.trunk_cache import TrunkNotCached
from collegium.experts.trunk_file import TrunkFile
from collegium.experts.trunk_states import homes_of
from collegium.models import Base
from collegium.models.trunk import Trunk
from collegium.testing.pico import ARCHITECTURES, byte_tokenizer, random_base
from collegium.train import MemoryLogger
from collegium.train.order import Epochs

CONFIG = FitConfig(
    rank=4,
    layers="top:1",
    steps=12,
    batch=2,
    window=48,
    evaluate_every=4,
    learning_rate=3e-3,
    dev_tokens=128,
    patience=0,
)
TEXTS = [Document(text=f"Article {n}. The court of appeal finds for tenant {n}. " * (1 + n % 3)) for n in range(6)]
DEV = [Document(text="The court finds for the tenant in all points but the costs of the appeal. " * 2)]


def fitted(base: Base, folder: Path | None = None, logger: MemoryLogger | None = None, **changes: object) -> Trained:
    config = dataclasses.replace(CONFIG, **changes)
    return fit_documents(base, TEXTS, dev=DEV, config=config, name="law", checkpoint=folder, logger=logger)


def weights(trained: Trained) -> list[Tensor]:
    assert isinstance(trained.expert.payload, AdapterPayload)
    return [each for part in trained.expert.payload.adapter.values() for each in part.tensors.values()]


def same(one: Trained, other: Trained) -> bool:
    equal = all(torch.equal(left, right) for left, right in zip(weights(one), weights(other), strict=True))
    return equal and one.history == other.history


def named(architecture: str) -> Base:
    return Base.from_model(random_base(architecture, 1).model, byte_tokenizer(), name=architecture)


@pytest.fixture(params=ARCHITECTURES, scope="module")
def each_base(request: pytest.FixtureRequest) -> Base:
    return named(request.param)


@pytest.fixture
def trunks(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many windows each run of a trunk alone computed."""
    counted: list[int] = []
    states = Trunk.states

    def counting(self: Trunk, tokens: Tensor, **more: Tensor) -> Tensor:
        counted.append(len(tokens))
        return states(self, tokens, **more)

    monkeypatch.setattr(Trunk, "states", counting)
    return counted


def always_the_first_epoch(self: Epochs, number: int) -> Tensor:
    """Batches of one composition in every epoch; as many windows as fill them."""
    each = self.count // self.batch
    first = number % each * self.batch
    return torch.arange(first, first + self.batch)


@pytest.mark.parametrize("kind", ["lora", "ia3", "bottleneck", "ffn", "prefix"])
def test_batches_of_one_composition_give_equal_bits(each_base, monkeypatch, kind):
    rank = CONFIG.rank if kind in ("lora", "bottleneck") else FitConfig().rank
    monkeypatch.setattr(Epochs, "rows", always_the_first_epoch)
    monkeypatch.setattr("collegium.experts.trunk_states.homes_of", lambda count, rows: torch.arange(count) // 2)
    kept, anew = (fitted(each_base, kind=kind, rank=rank, trunk_cache_mb=mb) for mb in (64, 0))
    assert same(kept, anew)


def test_other_compositions_agree_to_a_millionth(each_base):
    """In later epochs a window stands among others, and products of other shapes add up in another order."""
    kept, anew = (fitted(each_base, trunk_cache_mb=mb) for mb in (64, 0))
    first = len(TEXTS) // 2
    for one, other in zip(kept.history.steps, anew.history.steps, strict=True):
        assert one.loss == pytest.approx(other.loss, rel=1e-6)
        assert one.gradient_norm == pytest.approx(other.gradient_norm, rel=1e-4)
    assert kept.history.steps[:first] == anew.history.steps[:first], "the first epoch is the very same"
    for left, right in zip(weights(kept), weights(anew), strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=0)


def test_every_window_is_computed_once_however_often_it_is_read(pico, trunks):
    fitted(pico)
    some = sum(trunks)
    trunks.clear()
    fitted(pico, steps=48)
    assert sum(trunks) == some > 6


def test_the_law_rejects_states_of_other_windows(pico, monkeypatch):
    read = TrunkFile.read
    monkeypatch.setattr(TrunkFile, "read", lambda self, index: read(self, index).roll(1, 0))
    kept = fitted(pico)
    monkeypatch.undo()
    assert not same(kept, fitted(pico, trunk_cache_mb=0))
    assert kept.history.steps[-1].loss != pytest.approx(fitted(pico, trunk_cache_mb=0).history.steps[-1].loss, rel=1e-6)


class Stopping(MemoryLogger):
    """Breaks a fit off after a step, without a checkpoint of it where `hard`."""

    def __init__(self, step: int) -> None:
        super().__init__()
        self.at = step

    def log(self, step: int, values: Mapping[str, float]) -> None:
        super().log(step, values)
        if step == self.at and "loss" in values:
            raise KeyboardInterrupt


def stopped(base: Base, folder: Path, step: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        fitted(base, folder, Stopping(step))


def test_an_interrupted_fit_finds_what_it_had_computed(pico, tmp_path, trunks):
    whole = fitted(pico)
    stopped(pico, tmp_path, 7)
    assert (tmp_path / "trunk.train").exists()
    trunks.clear()
    assert same(fitted(pico, tmp_path), whole)
    assert trunks == [2], "nothing but the probe was computed again"


def test_a_fit_that_lost_its_file_comes_to_the_same_weights(pico, tmp_path, trunks):
    whole = fitted(pico)
    stopped(pico, tmp_path, 7)
    for part in ("train", "dev"):
        (tmp_path / f"trunk.{part}").unlink()
    trunks.clear()
    assert same(fitted(pico, tmp_path), whole)
    windows = [each for each in trunks if each == CONFIG.batch]
    assert len(windows) == len(trunks) > 1, "in the company in which they were first read"


def test_a_fit_that_ends_takes_its_files_along(pico, tmp_path):
    fitted(pico, tmp_path)
    assert list(tmp_path.glob("trunk*")) == []


def test_a_fit_without_a_folder_leaves_nothing_however_it_ends(pico, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    seen: list[Path] = []
    monkeypatch.setattr(trunk_file, "_make", lambda path, *more: (seen.append(path), make(path, *more)))
    with pytest.raises(KeyboardInterrupt):
        fitted(pico, None, Stopping(7))
    assert len(seen) == 2
    assert list(tmp_path.iterdir()) == []


make = trunk_file._make


def damage(path: Path) -> None:
    """Turn one number of each row into its negative."""
    row, content = CONFIG.window * 64 * 4, bytearray(path.read_bytes())
    for place in range(len(content) - 1, 4096, -row):
        content[place - row + 4] ^= 0x80
    path.write_bytes(bytes(content))


def test_rows_that_are_not_whole_are_computed_again(pico, tmp_path, trunks):
    whole = fitted(pico)
    stopped(pico, tmp_path, 7)
    damage(tmp_path / "trunk.train")
    trunks.clear()
    assert same(fitted(pico, tmp_path), whole)
    assert len(trunks) > 1


def test_the_law_rejects_rows_believed_unseen(pico, tmp_path, monkeypatch):
    whole = fitted(pico)
    stopped(pico, tmp_path, 7)
    damage(tmp_path / "trunk.train")
    monkeypatch.setattr(TrunkFile, "has", lambda self, index: torch.ones(len(index), dtype=torch.bool))
    assert not same(fitted(pico, tmp_path), whole)


KEY, OTHER = "a" * 64, "b" * 64


def opened(path: Path, key: str = KEY, rows: int = 3, dtype: torch.dtype = torch.float32) -> TrunkFile:
    return TrunkFile(path, key=key, rows=rows, shape=(4, 8), dtype=dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_file_gives_back_what_was_written(tmp_path, dtype):
    values = torch.randn(3, 8).to(dtype)
    file = opened(tmp_path / "x", dtype=dtype)
    assert not file.has(torch.arange(3)).any()
    file.write(1, torch.ones(4, 8))
    file.write(1, values)
    for each in (file, opened(tmp_path / "x", dtype=dtype)):
        assert each.has(torch.tensor([2, 1, 0])).tolist() == [False, True, False]
        (got,) = each.read(torch.tensor([1]))
        assert torch.equal(got[:3], values)
        assert not got[3:].any()


def test_another_key_or_shape_never_hits(tmp_path):
    for other in ({"key": OTHER}, {"rows": 4}, {"dtype": torch.bfloat16}):
        opened(tmp_path / "x").write(0, torch.ones(4, 8))
        assert opened(tmp_path / "x").has(torch.tensor([0])).tolist() == [True]
        assert opened(tmp_path / "x", **other).has(torch.tensor([0])).tolist() == [False]


def test_a_file_whose_making_was_cut_off_is_made_anew(tmp_path):
    opened(tmp_path / "x").write(0, torch.ones(4, 8))
    whole = (tmp_path / "x").read_bytes()
    for cut in (whole[: len(whole) // 2], bytes(len(whole)), b""):
        (tmp_path / "x").write_bytes(cut)
        assert opened(tmp_path / "x").has(torch.tensor([0])).tolist() == [False]


def test_what_decides_the_bits_is_in_the_key(pico, tmp_path, monkeypatch):
    keys = []
    states = trunk_cache.TrunkStates

    def noting(*arguments: object) -> object:
        keys.append(arguments[3])
        return states(*arguments)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr(trunk_cache, "TrunkStates", noting)
    for change in ({}, {"window": 40}, {"batch": 3}, {"seed": 1}, {"threads": 2}):
        fitted(pico, **change)
    fitted(Base.from_model(random_base("llama", 9).model, byte_tokenizer(), name="other"))
    assert len(keys) == 12
    assert len(set(keys[::2])) == 6
    keys.clear()
    fitted(pico)
    fitted(pico, learning_rate=1e-4)
    assert keys[:2] == keys[2:], "what does not decide them is not"


def test_each_window_has_the_batch_it_is_first_read_in():
    epochs = Epochs(7, batch=3, seed=5)
    homes = homes_of(7, epochs.rows)
    first = torch.cat([epochs.rows(number) for number in range(3)])[:7]
    assert [homes[row].item() for row in first] == [0, 0, 0, 1, 1, 1, 2]


def anew(base: Base, match: str, **changes: object) -> Trained:
    with pytest.warns(TrunkNotCached, match=match):
        return fitted(base, **changes)


def test_beyond_the_limit_nothing_is_kept_and_it_says_so(pico, trunks, monkeypatch):
    monkeypatch.setattr(trunk_cache, "_MEGABYTE", 1e3)
    plain = anew(pico, r"takes \d+ MB, --trunk-cache-mb allows 1;", trunk_cache_mb=1)
    assert trunks == []
    assert same(plain, fitted(pico, trunk_cache_mb=0))


def test_a_base_in_training_mode_is_computed_anew(trunks):
    base = named("gpt2")
    base.blocks[0].train()
    anew(base, "training mode")
    assert trunks == []


def test_a_family_for_which_it_cannot_hold_is_computed_anew(trunks):
    base = named("llama")
    aside: list[Tensor] = []
    base.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: aside.append(output))
    base.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output + aside[-1].roll(len(aside), 1))
    anew(base, "take more from the lower ones")
    assert len(trunks) == 1


def test_nothing_is_kept_where_nothing_is_saved(pico, trunks):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fitted(pico, layers="all")
        fitted(pico, layers=(0,))
        fitted(pico, trunk_cache_mb=0)
    assert trunks == []


def test_windows_read_once_are_not_kept(pico, tmp_path):
    with contextlib.suppress(KeyboardInterrupt):
        fitted(pico, tmp_path, Stopping(2), steps=2)
    assert not (tmp_path / "trunk.train").exists()
    assert (tmp_path / "trunk.dev").exists()


def test_a_full_disk_ends_it_before_the_first_step(pico, tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    told = MemoryLogger()
    try:
        with pytest.raises(ResourceError, match=r"no space left for .*--trunk-cache-mb 0"):
            fitted(pico, tmp_path, told)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.glob("trunk*")) == []
    assert pico.attached == ()
    fitted(pico, tmp_path)


def test_space_is_taken_in_advance_where_the_system_cannot_reserve_it(tmp_path, monkeypatch):
    monkeypatch.delattr(trunk_file.os, "posix_fallocate")
    opened(tmp_path / "x").write(0, torch.ones(4, 8))
    assert opened(tmp_path / "x").has(torch.tensor([0])).tolist() == [True]


def test_the_setting_is_in_the_recipe_of_experts_with_a_trunk(pico):
    assert recipe_of(resolve(CONFIG), "lora", pico)["trunk_cache_mb"] == 1024
    assert "trunk_cache_mb" not in recipe_of(resolve(dataclasses.replace(CONFIG, layers="all")), "lora", pico)
    with pytest.raises(ConfigError, match="trunk_cache_mb is for small experts alone"):
        resolve(FitConfig(trunk_cache_mb=0), "whole")
    with pytest.raises(ConfigError, match="trunk_cache_mb is not negative"):
        FitConfig(trunk_cache_mb=-1)


KILLED = """
    import os, signal, sys
    from pathlib import Path
    import torch
    torch.set_num_threads(1)
    sys.path.insert(0, sys.argv[2])
    from test_trunk_cache import named, fitted
    from collegium.experts.trunk_file import TrunkFile

    write, left = TrunkFile.write, int(sys.argv[3])
    def writing(self, row, values):
        global left
        left -= 1
        if left < 0:
            self._data[row] = 7.0  # half a row
            os.kill(os.getpid(), signal.SIGKILL)
        write(self, row, values)
    TrunkFile.write = writing
    fitted(named("llama"), Path(sys.argv[1]), evaluate_every=1)
"""


@pytest.mark.recipe
@pytest.mark.parametrize("rows", [1, 5])
def test_a_killed_fit_goes_on_to_the_same_weights(tmp_path, rows):
    script = [sys.executable, "-c", textwrap.dedent(KILLED), str(tmp_path), str(Path(__file__).parent), str(rows)]
    assert subprocess.run(script, check=False).returncode == -signal.SIGKILL
    assert any(tmp_path.glob("trunk.*"))
    base = named("llama")
    assert same(fitted(base, tmp_path, evaluate_every=1), fitted(base, evaluate_every=1))
