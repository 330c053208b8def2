"""What was learnt, kept on disk: a file of tensors for each step of a stream, so that a run goes on where it ended."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from collegium.core.cards import content_hash, read_json, to_json
from collegium.core.files import write_bytes, write_text
from collegium.core.tensors import read_tensors, tensor_bytes
from collegium.models import Adapter
from collegium.tasks.continual.knowledge import Knowledge


def keep(folder: Path, name: str, knowledge: Knowledge, said: Mapping[str, Any]) -> None:
    """Write what was learnt, then what is said of it; a step counts as done once the second file is there."""
    folder.mkdir(parents=True, exist_ok=True)
    write_bytes(folder / f"{name}.safetensors", tensor_bytes(knowledge.to_tensors()))
    shape = {"adapters": list(knowledge.adapters), "heads": list(knowledge.heads)}
    write_text(folder / f"{name}.json", to_json({**said, **shape}))


def said_of(folder: Path, name: str) -> dict[str, Any] | None:
    """Return what was said of a step that is done, else None."""
    file = folder / f"{name}.json"
    return read_json(file) if file.is_file() else None


def recall(folder: Path, name: str, *, like: Adapter) -> Knowledge:
    """Return what was learnt by a step that is done. like: an adapter of the shape of those that were kept."""
    said = read_json(folder / f"{name}.json")
    tensors = read_tensors(folder / f"{name}.safetensors")
    return Knowledge.from_tensors(tensors, like=like, adapters=said["adapters"], heads=said["heads"])


def once(
    kept: dict[str, Knowledge],
    label: str,
    make: Callable[[], Knowledge],
    *,
    folder: Path | None,
    like: Callable[[], Adapter],
    identity: Any,  # noqa: ANN401 - any value of JSON
) -> Knowledge:
    """Return what a label stands for: known, else read from the folder, else made and written there.

    identity: everything it depends on besides its label.
    """
    if label in kept:
        return kept[label]
    name = content_hash([label, identity])[:16]
    if folder is not None and said_of(folder, name):
        kept[label] = recall(folder, name, like=like())
        return kept[label]
    kept[label] = make()
    if folder is not None:
        keep(folder, name, kept[label], {"label": label})
    return kept[label]
