"""Tensors in safetensors files, read strictly; nothing is ever unpickled."""

import errno
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor

from collegium.core.errors import CorruptExpert

PICKLE_SUFFIXES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt", ".joblib", ".npy", ".npz"})
FLOATS = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
"""The kinds of numbers that weights may be kept as."""
_PICKLE_STARTS = (b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05", b"PK\x03\x04")


def tensor_bytes(tensors: Mapping[str, Tensor]) -> bytes:
    """Return the content of a safetensors file: equal tensors give equal bytes."""
    plain = {name: tensor.detach().to("cpu").contiguous().clone() for name, tensor in sorted(tensors.items())}
    return save(plain, metadata={"format": "pt"})


def read_tensors(path: Path, *, finite: bool = True) -> dict[str, Tensor]:
    """Return the tensors in a file; raises CorruptExpert when it is missing, truncated, a pickle, or not finite.

    finite: whether NaN and infinity are refused (a log-prior may well hold minus infinity).
    """
    _check_start(path)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise CorruptExpert(
            f"{path} is not a whole safetensors file ({error}); it may be truncated. Get it again."
        ) from error
    if finite:
        check_finite(tensors, where=str(path))
    return tensors


def read_shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Return the shapes of the tensors in a file without reading them; raises CorruptExpert when it is damaged."""
    _check_start(path)
    try:
        with safe_open(path, framework="pt") as file:
            return {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except SafetensorError as error:
        raise CorruptExpert(
            f"{path} is not a whole safetensors file ({error}); it may be truncated. Get it again."
        ) from error


def check_finite(tensors: Mapping[str, Tensor], *, where: str) -> None:
    """Raise CorruptExpert, naming the first tensor that holds NaN or infinity, or numbers of fewer than 16 bits."""
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and tensor.dtype not in FLOATS:
            raise CorruptExpert(
                f"{where}: tensor {name!r} holds {tensor.dtype}; weights are read as {', '.join(map(str, FLOATS))}. "
                "Save it in one of these."
            )
        if tensor.is_floating_point() and not torch.isfinite(tensor).all():
            raise CorruptExpert(f"{where}: tensor {name!r} holds NaN or infinity; train the expert again.")


def _check_start(path: Path) -> None:
    try:
        with path.open("rb") as file:
            start = file.read(9)
    except FileNotFoundError as error:
        raise CorruptExpert(f"{path} is missing.") from error
    # A safetensors file starts with its header's length in eight bytes, and 640 is a pickle's first two; then comes {.
    if start.startswith(_PICKLE_STARTS) and start[8:] != b"{":
        raise CorruptExpert(f"{path} holds a pickle, which can run code when opened; only safetensors are read.")


@contextmanager
def safetensors_errors() -> Iterator[None]:
    """Give safetensors' own error its number back, so that a full disk is told as such."""
    try:
        yield
    except SafetensorError as error:
        found = re.search(r"os error (\d+)", str(error))
        raise OSError(int(found[1]) if found else errno.EIO, str(error)) from error
