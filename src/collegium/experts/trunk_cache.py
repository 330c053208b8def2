"""Whether a fit keeps what the blocks below its expert say of each window, and how long.

Kept is what is read more than once: training windows when the steps read more than there are, held-out windows always.
It is all or nothing: more than `trunk_cache_mb` in all is not kept, and a `TrunkNotCached` warning says so. Neither is
what would not be exact: a base in training mode or itself being trained, an architecture whose upper blocks take more
from the lower ones than hidden states (tried on some windows before the first step).
"""

import dataclasses
import hashlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from collegium.core.cards import to_json
from collegium.data import Windows
from collegium.experts.objective import Objective, windows_hash
from collegium.experts.recipe import FitConfig
from collegium.experts.trunk_states import Batches, TrunkStates
from collegium.models import Adapter
from collegium.models.trunk import Trunk

_MEGABYTE = 1e6
_PROBE_WINDOWS, _PROBE_TOKENS = 2, 64


class TrunkNotCached(UserWarning):
    """The blocks below an expert are computed anew at each reading of a window; says why."""


@contextmanager
def trunk_cached(
    objective: Objective, adapter: Adapter, *, config: FitConfig, folder: Path | None
) -> Iterator[Objective]:
    """Give the objective that takes the trunk's states from files, where that saves something and is exact.

    folder: of the fit's checkpoints: an interrupted fit finds there what it had computed. A fit that ends takes its
    files along.
    """
    first = min(objective.model.sites[path].block for path in adapter)
    if not first or not config.trunk_cache_mb:
        yield objective
        return
    trunk = Trunk(objective.model, first)
    train = _train_states(objective, trunk, folder) if _reads(config) > len(objective.train) else None
    dev = _dev_states(objective, trunk, folder)
    reason = _refusal(objective, trunk, sum(each.size_bytes for each in (train, dev) if each), config)
    if reason:
        warnings.warn(
            f"the blocks below block {first} are computed anew at each reading of a window: {reason}.",
            TrunkNotCached,
            stacklevel=2,
        )
        yield objective
        return
    yield dataclasses.replace(objective, train_states=train, dev_states=dev)
    for each in (train, dev):
        if each is not None and each.path is not None:
            each.path.unlink(missing_ok=True)


def _reads(config: FitConfig) -> int:
    """Return how many windows the steps read in all."""
    return config.steps * config.accumulation * config.batch


def _train_states(objective: Objective, trunk: Trunk, folder: Path | None) -> TrunkStates:
    epochs = objective.epochs
    return _states(
        objective.train, epochs.rows, trunk, order=(epochs.batch, epochs.seed), path=folder and folder / "trunk.train"
    )


def _dev_states(objective: Objective, trunk: Trunk, folder: Path | None) -> TrunkStates:
    path = folder and folder / "trunk.dev"
    return _states(objective.dev, objective.dev_rows, trunk, order=(objective.epochs.batch,), path=path)


def _states(
    windows: Windows, batches: Batches, trunk: Trunk, *, order: tuple[int, ...], path: Path | None
) -> TrunkStates:
    """Return states under a key of everything that their bits depend on."""
    key = {
        "base": dataclasses.asdict(trunk.base.fingerprint),
        "block": trunk.first,
        "windows": windows_hash(windows),
        "order": order,
        "dtype": str(trunk.base.dtype),
        "device": trunk.base.device.type,
        "threads": torch.get_num_threads(),
    }
    return TrunkStates(trunk, windows, batches, hashlib.sha256(to_json(key).encode()).hexdigest(), path)


def _refusal(objective: Objective, trunk: Trunk, size_bytes: int, config: FitConfig) -> str | None:
    """Return why the states are not kept, None where they can be."""
    if size_bytes > config.trunk_cache_mb * _MEGABYTE:
        return (
            f"what they say takes {size_bytes / _MEGABYTE:.0f} MB, --trunk-cache-mb allows {config.trunk_cache_mb}; "
            "raise it if the disk has room"
        )
    if not trunk.frozen:
        return "the base is in training mode or being trained; its `model.eval()` and frozen weights would allow it"
    windows = objective.train
    tokens, segments = (each[:_PROBE_WINDOWS, :_PROBE_TOKENS] for each in (windows.tokens, windows.segments))
    return trunk.refusal(tokens, segments=segments, plan=objective.plan)
