"""Weights of whole models where they lie: tensors found in one safetensors file or several, and written one by one."""

import json
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import safe_open
from torch import Tensor

from collegium.core.cards import read_json
from collegium.core.errors import CorruptExpert
from collegium.core.tensors import read_shapes, safetensors_errors
from collegium.experts.folder import refuse_pickles

_ONE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_NAMES = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_BYTES = 2**26


class WeightFiles:
    """The tensors of a transformers folder, mapped into memory and read when asked for.

    Raises CorruptExpert for a folder without safetensors files, or with damaged ones.
    """

    def __init__(self, folder: Path) -> None:
        """Find the tensors; nothing is read but headers."""
        self.folder = folder
        if not folder.is_dir():
            raise CorruptExpert(f"there is no model at {folder}; give the folder of a transformers model.")
        if not (folder / _ONE).is_file() and not (folder / _INDEX).is_file():
            refuse_pickles(folder)
            raise CorruptExpert(f"{folder} has neither {_ONE} nor {_INDEX}; save the model as safetensors.")
        index = read_json(folder / _INDEX)["weight_map"] if (folder / _INDEX).is_file() else None
        files = sorted(set(index.values())) if index else [_ONE]
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._where: dict[str, str] = {}
        for file in files:
            if Path(file).name != file:
                raise CorruptExpert(f"{folder}: {_INDEX} leads out of the folder: {file!r}.")
            for name, shape in read_shapes(folder / file).items():
                self.shapes[name], self._where[name] = shape, file
        self._open: dict[str, Any] = {}

    def tensor(self, name: str) -> Tensor:
        """Return a tensor, backed by its file."""
        file = self._where[name]
        if file not in self._open:
            with safetensors_errors():
                self._open[file] = safe_open(self.folder / file, framework="pt").__enter__()
        return self._open[file].get_tensor(name)

    def dtype(self, name: str) -> torch.dtype:
        """Return what a tensor's numbers are kept as."""
        return self.tensor(name).dtype

    def close(self) -> None:
        """Let the files go."""
        for file in self._open.values():
            file.__exit__(None, None, None)
        self._open.clear()


def write_tensors(
    path: Path, shapes: Mapping[str, tuple[int, ...]], dtype: torch.dtype, parts: Iterable[Tensor]
) -> int:
    """Write a safetensors file whose tensors come one after another, in the order of `shapes`; return its bytes.

    parts: pieces of the tensors, in order; each tensor may come in several.
    """
    size = dtype.itemsize
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    start = 0
    for name, shape in shapes.items():
        end = start + size * torch.Size(shape).numel()
        header[name] = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [start, end]}
        start = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with path.open("xb", buffering=0) as file:
        _write(file, len(text).to_bytes(8, "little") + text)
        for part in parts:
            for piece in part.contiguous().view(-1).split(_BYTES // size):
                numbers: Any = piece.view(torch.uint8).numpy()
                _write(file, memoryview(numbers))
        return file.tell()


def _write(file: BinaryIO, content: bytes | memoryview) -> None:
    view = memoryview(content)
    while len(view):
        view = view[file.write(view) :]


def pieces(count: int, size: int) -> Iterator[slice]:
    """Return the slices that cut so many numbers into pieces of a size.

    >>> list(pieces(5, 2))
    [slice(0, 2, None), slice(2, 4, None), slice(4, 5, None)]
    """
    for start in range(0, count, size):
        yield slice(start, min(start + size, count))
