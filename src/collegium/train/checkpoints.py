"""Checkpoints: folders that exist whole or not at all, of one configuration, the newest good one counts.

FOLDER/step-00000040/state.json             identity, history, sha256 of every tensor file
FOLDER/step-00000040/weights.safetensors    the parameters
FOLDER/step-00000040/best.safetensors       the parameters with the lowest held-out loss so far
FOLDER/step-00000040/first.safetensors      AdamW's running mean of the gradient
FOLDER/step-00000040/second.safetensors     AdamW's running mean of its square, and the count of updates
FOLDER/step-00000040/companion.safetensors  what a fit carries beside its weights, where it carries anything

The order of batches and all randomness are functions of the step, so a checkpoint holds no position and no generator.
"""

import contextlib
import dataclasses
import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from collegium.core.cards import to_json
from collegium.core.errors import ConfigError
from collegium.core.files import disk_errors, exclusive, file_hash, staged_folder, sweep, write_new
from collegium.core.tensors import tensor_bytes
from collegium.train.history import History, history_from_json

_PARTS = ("weights", "best", "first", "second", "companion")
_STATE = "state.json"
_WAIT_SECONDS = 10.0


@dataclass(frozen=True)
class Snapshot:
    """A fit between two steps: named tensors by part, what it went through, and its companion's numbers."""

    history: History
    tensors: Mapping[str, Mapping[str, Tensor]]
    numbers: Mapping[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """How many updates were made."""
        return len(self.history.steps)


@dataclass(frozen=True)
class Checkpoints:
    """A folder of checkpoints of one fit.

    identity: hash of everything that decides the fit; a folder of another identity is refused.
    every:    steps between two checkpoints; one is also left when a fit is interrupted, paused or over.
    keep:     how many are kept, the older ones in case the newest is damaged.
    """

    folder: Path
    identity: str
    every: int = 20
    keep: int = 2

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Keep every other fit out of the folder; raises ResourceError when another one does not leave it.

        It is waited for a little, since a worker whose parent was killed leaves a last checkpoint before it ends.
        """
        with disk_errors(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
        with exclusive(self.folder, timeout_seconds=_WAIT_SECONDS):
            yield

    def save(self, snapshot: Snapshot) -> Path:
        """Write a checkpoint whole or not at all and return its folder.

        Raises ResourceError when the disk is full; the earlier checkpoints stay as they are.
        """
        target = self.folder / f"step-{snapshot.step:08d}"
        if target.exists():
            if _read(target) is not None:
                return target
            shutil.rmtree(target)
        with staged_folder(target) as aside:
            state = {"identity": self.identity, "history": dataclasses.asdict(snapshot.history)}
            state["numbers"] = dict(snapshot.numbers)
            state["files"] = {
                part: _write(aside / f"{part}.safetensors", snapshot.tensors.get(part, {})) for part in _PARTS
            }
            write_new(aside / _STATE, to_json(state).encode())
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old, ignore_errors=True)
        return target

    def latest(self) -> Snapshot | None:
        """Return the newest whole checkpoint, None where there is none; damaged ones are passed over and removed.

        Raises ConfigError when the newest whole one belongs to another configuration.
        """
        sweep(self.folder)
        for path in reversed(self._folders()):
            found = _read(path)
            if found is None:
                shutil.rmtree(path, ignore_errors=True)
                continue
            identity, snapshot = found
            if identity != self.identity:
                raise ConfigError(
                    f"{path} is a checkpoint of another configuration or other data ({identity[:12]}, this fit is "
                    f"{self.identity[:12]}). Go on with the settings it began with, or delete {self.folder}."
                )
            return snapshot
        return None

    def _folders(self) -> list[Path]:
        return sorted(path for path in self.folder.glob("step-*") if path.is_dir())


def _write(path: Path, tensors: Mapping[str, Tensor]) -> str:
    content = tensor_bytes(tensors)
    write_new(path, content)
    return hashlib.sha256(content).hexdigest()


def _read(path: Path) -> tuple[str, Snapshot] | None:
    try:
        state = json.loads((path / _STATE).read_text())
        tensors = {}
        for part in _PARTS:
            file = path / f"{part}.safetensors"
            if file_hash(file) != state["files"][part]:
                return None
            tensors[part] = load_file(file)
        return state["identity"], Snapshot(history_from_json(state["history"]), tensors, state["numbers"])
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None
