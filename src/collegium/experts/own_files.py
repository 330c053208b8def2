"""The two files of adapters in a form of our own: config.json and model.safetensors, read strictly.

config.json says `format` ("collegium-KIND"), `version`, and what the kind keeps beside tensors; the tensors are named
`PATH:NAME`, the place in the base and the tensor's name in its part.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.core.cards import read_json, to_json
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.core.files import write_new
from collegium.core.tensors import check_finite, read_tensors, tensor_bytes
from collegium.models import Adapter

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"
FILES = frozenset({CONFIG_FILE, TENSOR_FILE})
VERSION = 1


def write_own(kind: str, adapter: Adapter, folder: Path, *, fields: Mapping[str, Any]) -> None:
    """Write an adapter's two files; raises CorruptExpert when a weight is not finite."""
    tensors = {f"{path}:{name}": each for path, part in adapter.items() for name, each in part.tensors.items()}
    write_own_tensors(kind, tensors, folder, fields=fields)


def write_own_tensors(kind: str, tensors: Mapping[str, Tensor], folder: Path, *, fields: Mapping[str, Any]) -> None:
    """Write the two files of an expert whose tensors (`PATH:NAME`) are more than an adapter's."""
    check_finite(tensors, where="the new expert")
    write_new(folder / CONFIG_FILE, to_json({"format": f"collegium-{kind}", "version": VERSION, **fields}).encode())
    write_new(folder / TENSOR_FILE, tensor_bytes(tensors))


def read_own(
    kind: str, folder: Path, *, fields: Mapping[str, Callable[[Any], bool]]
) -> tuple[dict[str, Any], dict[str, dict[str, Tensor]]]:
    """Return what config.json says and path -> the tensors there by name.

    fields: what the kind keeps beside tensors -> whether a value is one.

    Raises CorruptExpert for what is damaged, IncompatibleExpert for another format, version, or an unknown field.
    """
    config = read_json(folder / CONFIG_FILE)
    if config.get("format") != f"collegium-{kind}" or config.get("version") != VERSION:
        raise IncompatibleExpert(
            f"{folder / CONFIG_FILE} says format {config.get('format')!r}, version {config.get('version')!r}; an "
            f"expert of this kind is 'collegium-{kind}', version {VERSION}."
        )
    known = {"format", "version", *fields}
    odd = sorted(config.keys() ^ known) or sorted(name for name, fits in fields.items() if not fits(config[name]))
    if odd:
        raise IncompatibleExpert(
            f"{folder / CONFIG_FILE}: unknown, missing or odd fields {odd}; it has {sorted(known)}."
        )
    return config, _by_path(read_tensors(folder / TENSOR_FILE), where=str(folder))


def _by_path(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, dict[str, Tensor]]:
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in sorted(tensors.items()):
        path, colon, name = key.partition(":")
        if not (path and colon and name):
            raise IncompatibleExpert(f"{where}: tensor {key!r} is not named after a place and a part of it.")
        found.setdefault(path, {})[name] = tensor
    if not found:
        raise CorruptExpert(f"{where}: the file holds no weights at all.")
    return found
