"""One memory-mapped file of rows that are written once and read often; a row that is not whole is never believed.

    key                 64 bytes, written last when the file is made
    rows x 16 bytes     the digest of each row, zeros = not written
    rows x row bytes    the rows

A process may be killed at any point, and a disk may lose what it was not yet asked to keep: a row counts when its bytes
have its digest. The whole file is reserved when it is made, so that a full disk is met before the first row.
"""

import errno
import hashlib
import math
import mmap
import os
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import ResourceError

_KEY_BYTES = 64
_DIGEST_BYTES = 16
_ALIGNED = 4096
_ZEROS = 2**20
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


class TrunkFile:
    """Rows of equal shape on disk, under a key of 64 characters."""

    def __init__(self, path: Path, *, key: str, rows: int, shape: tuple[int, ...], dtype: torch.dtype) -> None:
        """Open the file of this key where there is one, else make it anew; raises ResourceError for want of space."""
        self._digests_at = _KEY_BYTES
        self._rows_at = -(-(_KEY_BYTES + rows * _DIGEST_BYTES) // _ALIGNED) * _ALIGNED
        numbers = rows * math.prod(shape)
        size = self._rows_at + numbers * dtype.itemsize
        if not _is_of(path, key, size):
            _make(path, key, size)
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), size)
        self._data = torch.frombuffer(self._map, dtype=dtype, count=numbers, offset=self._rows_at).view(rows, *shape)
        self._whole = torch.zeros(rows, dtype=torch.bool)
        self._seen = torch.zeros(rows, dtype=torch.bool)

    def has(self, index: Int[Tensor, " row"]) -> Tensor:
        """Return which of these rows are there, whole; what was written by others is checked on first use."""
        for row in index[~self._seen[index]].tolist():
            self._seen[row] = True
            told = self._map[self._place(row) : self._place(row + 1)]
            self._whole[row] = told != bytes(_DIGEST_BYTES) and told == self._digest(row)
        return self._whole[index]

    def write(self, row: int, values: Tensor) -> None:
        """Put values at the beginning of a row, zeros behind them; then its digest."""
        mine = self._data[row]
        mine[: len(values)] = values
        mine[len(values) :] = 0
        self._map[self._place(row) : self._place(row + 1)] = self._digest(row)
        self._seen[row] = self._whole[row] = True

    def read(self, index: Int[Tensor, " row"]) -> Tensor:
        """Return a copy of rows."""
        return self._data[index]

    def _place(self, row: int) -> int:
        return self._digests_at + row * _DIGEST_BYTES

    def _digest(self, row: int) -> bytes:
        content = self._data[row].view(torch.uint8).numpy()
        return hashlib.blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _is_of(path: Path, key: str, size: int) -> bool:
    try:
        with path.open("rb") as file:
            return os.fstat(file.fileno()).st_size == size and file.read(_KEY_BYTES) == key.encode()
    except OSError:
        return False


def _make(path: Path, key: str, size: int) -> None:
    """Make a file of this size whose disk space is taken already; its key comes last."""
    assert len(key) == _KEY_BYTES
    path.unlink(missing_ok=True)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb", buffering=0) as file:
            _reserve(file.fileno(), size)
            file.seek(0)
            file.write(key.encode())
    except OSError as error:
        path.unlink(missing_ok=True)
        if error.errno not in _FULL:
            raise
        raise ResourceError(
            f"no space left for {path}, which takes {size / 1e6:.0f} MB: free space there, or train without it "
            "(--trunk-cache-mb 0), which computes the blocks below the expert anew at each reading."
        ) from error


def _reserve(descriptor: int, size: int) -> None:
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(descriptor, 0, size)
        return
    left = size
    while left:
        left -= os.write(descriptor, bytes(min(left, _ZEROS)))
