"""A shelf in memory: fitted routers kept as the bytes a library would write."""

import json
from collections.abc import Mapping
from typing import Any

from safetensors.torch import load, save
from torch import Tensor

from collegium.core.errors import UnknownName
from collegium.core.protocols import RouterChange


class MemoryShelf:
    """A `Shelf` without a disk; what it keeps is safetensors and JSON, so nothing else can slip through.

    digests: expert -> the checksum of its payload, for those whose rows are to be told from another's of the name.
    """

    def __init__(self) -> None:
        """Begin empty."""
        self.stored: dict[str, tuple[bytes, str]] = {}
        self.digests: dict[str, str] = {}

    def expert_digest(self, name: str) -> str | None:
        """Return what `digests` says, None for the others."""
        return self.digests.get(name)

    def load_router(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return the tensors and the card; raises UnknownName."""
        if name not in self.stored:
            raise UnknownName(f"no router {name!r} on this shelf.")
        tensors, card = self.stored[name]
        return load(tensors), json.loads(card)

    def save_router(self, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        """Keep both; replaces an earlier fit."""
        self.stored[name] = save({key: each.contiguous() for key, each in tensors.items()}), json.dumps(dict(card))

    def update_router(self, name: str, change: RouterChange) -> None:
        """Keep what `change` makes of both; raises UnknownName."""
        self.save_router(name, *change(*self.load_router(name)))
