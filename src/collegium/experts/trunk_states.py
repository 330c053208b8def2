"""What enters the first block an expert changes, kept window by window from its first reading on.

A number depends on the shape of the batch it was computed in, if in its last bits alone. Each window therefore has one
batch of its own, the one it is first read in, and its states are those that this batch gives, whenever they are
computed: a fit that goes on without its file comes to the same weights.
"""

import contextlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.data import Windows
from collegium.experts.trunk_file import TrunkFile
from collegium.models.trunk import Trunk

Batches = Callable[[int], Int[Tensor, " row"]]
"""Number -> the windows that are read together."""


@dataclass(eq=False)
class TrunkStates:
    """The states of windows, in a file that is made when the first are asked for.

    batches: which windows are computed together; each window with the first that has it.
    path:    of the file; None = a temporary one, gone with the process.
    """

    trunk: Trunk
    windows: Windows
    batches: Batches
    key: str
    path: Path | None = None
    _homes: Int[Tensor, " window"] = field(init=False, repr=False)
    _file: TrunkFile | None = field(default=None, init=False, repr=False)

    def __post_init__(self) -> None:
        """Find each window's own batch."""
        self._homes = homes_of(len(self.windows), self.batches)

    @property
    def shape(self) -> tuple[int, int]:
        """Of one window's states."""
        return self.windows.tokens.shape[1], int(self.trunk.base.config.hidden_size)

    @property
    def size_bytes(self) -> int:
        """What the states of all windows take."""
        seq, hidden = self.shape
        return len(self.windows) * seq * hidden * self.trunk.base.dtype.itemsize

    def read(self, rows: Int[Tensor, " row"], width: int) -> Float[Tensor, "row seq hidden"]:
        """Return the states of windows up to a width; raises ResourceError when there is no space for the file.

        Behind the end of a window they are zero, or what its own batch gave there.
        """
        if self._file is None:
            self._file = self._open()
        for number in sorted(set(self._homes[rows[~self._file.has(rows)]].tolist())):
            self._fill(self._file, number)
        return self._file.read(rows)[:, :width].to(self.trunk.base.device)

    def given(self, rows: Int[Tensor, " row"], width: int) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the base takes the states of windows as read."""
        return self.trunk.given(self.read(rows, width))

    def _open(self) -> TrunkFile:
        if self.path is not None:
            return self._at(self.path)
        with tempfile.TemporaryDirectory() as folder:  # what is mapped stays, and nothing is left behind
            return self._at(Path(folder) / "trunk.rows")

    def _at(self, path: Path) -> TrunkFile:
        return TrunkFile(path, key=self.key, rows=len(self.windows), shape=self.shape, dtype=self.trunk.base.dtype)

    def _fill(self, file: TrunkFile, number: int) -> None:
        rows = self.batches(number)
        batch = self.windows.take(rows)
        width = int(batch.lengths.max())
        states = self.trunk.states(batch.tokens[:, :width], segments=batch.segments[:, :width]).cpu()
        for row, own in zip(rows.tolist(), states, strict=True):
            if self._homes[row] == number:
                file.write(row, own)


def homes_of(count: int, batches: Batches) -> Int[Tensor, " window"]:
    """Return the number of the batch in which each of `count` windows is first read.

    >>> homes_of(3, lambda number: torch.tensor([[0, 2], [1, 0]])[number]).tolist()
    [0, 1, 0]
    """
    homes, number = torch.full((count,), -1), 0
    while bool((homes < 0).any()):
        rows = batches(number)
        homes[rows[homes[rows] < 0]] = number
        number += 1
    return homes
