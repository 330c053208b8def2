"""A shelf in memory: fitted routers kept as the bytes a library would write."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from collegium.core.errors import UnknownName


class MemoryShelf:
    """A `Shelf` without a disk; what it keeps is safetensors and JSON, so nothing else can slip through."""

    def __init__(self) -> None:
        """Begin empty."""
        self.stored: dict[str, tuple[bytes, str]] = {}

    def load_router(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the card; raises UnknownName."""
        if name not in self.stored:
            raise UnknownName(f"no router {name!r} on this shelf.")
        tensors, card = self.stored[name]
        return load(tensors), json.loads(card)

    def save_router(self, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        """Keep both; replaces an earlier fit."""
        self.stored[name] = save({key: each.contiguous() for key, each in tensors.items()}), json.dumps(dict(card))
