"""The other shelves of a library: fitted routers, compound models, measurements, and what can be derived again."""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.core.cards import content_hash, json_object, read_json, to_json
from collegium.core.errors import CorruptExpert, LibraryError, UnknownName
from collegium.core.files import (
    discard,
    disk_errors,
    file_hash,
    publish,
    set_aside,
    staging_folder,
    sync_tree,
    write_bytes,
    write_new,
)
from collegium.core.names import is_name
from collegium.core.tables import nearest
from collegium.core.tensors import read_tensors, tensor_bytes

ROUTER_CARD = "card.json"
METRICS_FILE = "metrics.jsonl"


def folder_names(folder: Path, *, suffix: str = "") -> tuple[str, ...]:
    """Return the names on a shelf, in order; what cannot be a name is passed over."""
    if not folder.is_dir():
        return ()
    names = (path.name.removesuffix(suffix) for path in folder.iterdir() if path.name.endswith(suffix))
    return tuple(sorted(name for name in names if is_name(name)))


def write_router(root: Path, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write a fitted router, or replace it; the library's lock must be held.

    The card names the tensor file, whose name is its content's: renaming the card is the one step that counts.
    """
    folder = root / "routers" / name
    content = tensor_bytes(tensors)
    digest = hashlib.sha256(content).hexdigest()
    file = f"router-{digest[:16]}.safetensors"
    text = to_json({"version": 1, "file": file, "sha256": digest, "card": dict(card)})
    if (folder / ROUTER_CARD).is_file():
        _replace_router(root, folder, file, content, text)
        return
    with disk_errors(folder), staging_folder(root) as aside:
        write_new(aside / file, content)
        write_new(aside / ROUTER_CARD, text.encode())
        sync_tree(aside)
        folder.parent.mkdir(exist_ok=True)
        if folder.exists():
            discard(set_aside(folder, root))  # Without a card it was never a router.
        publish(aside, folder)


def _replace_router(root: Path, folder: Path, file: str, content: bytes, text: str) -> None:
    try:
        write_bytes(folder / file, content, staging=root)
        write_bytes(folder / ROUTER_CARD, text.encode(), staging=root)
    finally:
        with contextlib.suppress(OSError, CorruptExpert):
            kept = read_router_card(folder)["file"]
            for path in folder.glob("*.safetensors"):
                if path.name != kept:
                    path.unlink(missing_ok=True)


def read_router(root: Path, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return a fitted router's tensors and card; raises UnknownName, or LibraryError when it is damaged."""
    folder = root / "routers" / name
    if not is_name(name) or not (folder / ROUTER_CARD).is_file():
        raise UnknownName(
            f"no router {name!r} was fitted for this library. {nearest(name, folder_names(root / 'routers'))}"
        )
    try:
        card = read_router_card(folder)
        path = folder / card["file"]
        if not path.is_file():  # Another process replaced the router between the two looks.
            card = read_router_card(folder)
            path = folder / card["file"]
        tensors = read_tensors(path, finite=False)
        if file_hash(path) != card["sha256"]:
            raise CorruptExpert(f"{path} is not what its card was written for (sha256 differs).")
    except CorruptExpert as error:
        raise LibraryError(
            f"router {name!r} is damaged: {error} Fit it again: `collegium library remove {name}` takes it away."
        ) from error
    return tensors, card["card"]


def read_router_card(folder: Path) -> dict[str, Any]:
    """Return a router's card with its frame; raises CorruptExpert."""
    raw = read_json(folder / ROUTER_CARD)
    file = raw.get("file")
    framed = set(raw) == {"version", "file", "sha256", "card"} and isinstance(raw["card"], dict)
    if not framed or not isinstance(file, str) or "/" in file or not file.startswith("router-"):
        raise CorruptExpert(f"{folder / ROUTER_CARD} is no router's card.")
    return raw


def read_model(root: Path, name: str) -> dict[str, Any]:
    """Return the record of a compound model; raises UnknownName, or LibraryError when it is damaged."""
    path = root / "models" / f"{name}.json"
    if not is_name(name) or not path.is_file():
        known = folder_names(root / "models", suffix=".json")
        raise UnknownName(f"the library has no model {name!r}. {nearest(name, known)}")
    try:
        record = read_json(path)
    except CorruptExpert as error:
        raise LibraryError(f"model {name!r} is damaged: {error} Make it again, or remove it.") from error
    members = record.get("members", [])
    if not isinstance(members, list) or not all(isinstance(each, str) for each in members):
        raise LibraryError(
            f"model {name!r} is damaged: its members must be a list of names, {path} holds {members!r}. Make it again, "
            "or remove it."
        )
    return record


def append_metrics(path: Path, record: Mapping[str, Any], *, staging: Path) -> None:
    """Append one line of JSON, whole or not at all; the library's lock must be held."""
    before = path.read_bytes() if path.is_file() else b""
    write_bytes(path, before + metrics_line(record).encode(), staging=staging)


def metrics_line(record: Mapping[str, Any]) -> str:
    """Return a measurement as its line of a metrics file; raises CorruptExpert for one that could not be read again."""
    line = json.dumps(dict(record), sort_keys=True, ensure_ascii=False, allow_nan=False)
    json_object(line, where="the measurement")
    return line + "\n"


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Return the records in a metrics file, oldest first; raises CorruptExpert when a line is no JSON object."""
    if not path.is_file():
        return []
    try:
        text = path.read_bytes().decode().removesuffix("\n")
    except UnicodeDecodeError as error:
        raise CorruptExpert(f"{path} is not UTF-8 text ({error}).") from error
    lines = text.split("\n") if text else []
    return [json_object(line, where=f"{path}:{number}") for number, line in enumerate(lines, start=1)]


def derived_path(root: Path, key: Any) -> Path:  # noqa: ANN401 - any value of JSON
    """Return where a derived value lies: a file named by the hash of its key."""
    return root / "derived" / f"{content_hash(key)}.safetensors"


def read_derived(root: Path, key: Any) -> dict[str, Tensor] | None:  # noqa: ANN401 - any value of JSON
    """Return derived tensors, None when they must be computed again: never made, deleted, or damaged."""
    path = derived_path(root, key)
    try:
        return read_tensors(path, finite=False) if path.is_file() else None
    except CorruptExpert:
        return None
