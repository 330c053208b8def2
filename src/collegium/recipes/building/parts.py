"""Parts of a run that are computed once: kept in the run's folder, found again by the next run."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.compose import Cast
from collegium.core.cards import content_hash
from collegium.core.files import write_bytes, write_text
from collegium.infer import HeldOut


class Parts:
    """Named results in a folder; each is tied to what it was computed from and computed anew when that changed.

    read_only: use what is there and leave nothing.
    """

    def __init__(self, folder: Path, *, read_only: bool = False) -> None:
        """Keep the folder."""
        self.folder, self.read_only = folder, read_only

    def values(self, name: str, *, inputs: object, compute: Callable[[], Any]) -> Any:  # noqa: ANN401 - plain JSON
        """Return plain JSON values, computed unless they are there for the same inputs."""
        path = self.folder / f"{name}.json"
        key = content_hash(inputs)
        found = _read(path)
        if found is not None and found.get("inputs") == key:
            return found["values"]
        values = compute()
        if not self.read_only:
            write_text(path, json.dumps({"inputs": key, "values": values}, indent=1) + "\n")
        return json.loads(json.dumps(values))

    def tensors(self, name: str, *, inputs: object, compute: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """Return named tensors, computed unless they are there for the same inputs."""
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import save

        path = self.folder / f"{name}.safetensors"
        key = content_hash(inputs)
        if path.exists():
            try:
                with safe_open(path, framework="pt") as file:
                    if (file.metadata() or {}).get("inputs") == key:
                        return {each: file.get_tensor(each) for each in file.keys()}  # noqa: SIM118 - not a mapping
            except SafetensorError:
                pass  # a torn file is computed anew
        found = {each: tensor.contiguous() for each, tensor in compute().items()}
        if not self.read_only:
            write_bytes(path, save(found, metadata={"inputs": key}))
        return found


def cast_key(cast: Cast) -> list[Any]:
    """Return what the answers of a base and its experts depend on: their contents and the dtype."""
    whole = sorted((name, model.fingerprint.short) for name, model in cast.whole.items())
    return [cast.base.fingerprint.short, str(cast.base.dtype), sorted(cast.keys.items()), whole]


def text_key(text: HeldOut) -> str:
    """Return what scores of held-out text depend on: its windows, their order and their context."""
    return content_hash([text.tokens.tolist(), text.lengths.tolist(), text.context.tolist(), text.domains])


def _read(path: Path) -> dict[str, Any] | None:
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        return None
