"""Residents: the experts whose weights lie in memory, loaded on first use, the least recently used one out first."""

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterable, Iterator

import torch
from torch import Tensor

from collegium.core.errors import ResourceError
from collegium.models.parts import Adapter, BottleneckWeights, LoraWeights, Part
from collegium.models.slots.slabs import Slab

Source = Callable[[], Adapter]
"""Reads an expert's adapter, as often as it is asked."""


def adapter_bytes(adapter: Adapter) -> int:
    """Return the bytes of an adapter's tensors."""
    tensors = (tensor for part in adapter.values() for tensor in part.tensors.values())
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


class Residents:
    """Experts in memory, by name; one that comes, leaves or is used costs the same however many there are.

    limit_bytes: how much their weights may take, None = no limit. held_bytes: how much they take.
    places: by module path, how many of them change it.
    """

    def __init__(self) -> None:
        """Start with nobody and no limit."""
        self.limit_bytes: int | None = None
        self.held_bytes = self.loads = 0
        self.places: Counter[str] = Counter()
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._positions: dict[str, int] = {}
        self._free: list[int] = []
        self._slabs: dict[tuple[str, torch.dtype, torch.device], Slab] = {}

    def __contains__(self, name: str) -> bool:
        """Return whether an expert's weights are in memory."""
        return name in self._adapters

    def adapter(self, name: str) -> Adapter:
        """Return a resident's adapter."""
        return self._adapters[name]

    def touch(self, names: Iterable[str]) -> list[str]:
        """Note that experts are used now, and return those whose weights are not in memory."""
        new = []
        for name in names:
            if name in self._adapters:
                self._adapters.move_to_end(name)
            else:
                new.append(name)
        return new

    def load(self, name: str, source: Source) -> Adapter:
        """Read an expert's weights into memory and return them."""
        adapter = self._adapters[name] = source()
        self._positions[name] = self._free.pop() if self._free else len(self._positions) + 1
        self.held_bytes += adapter_bytes(adapter)
        self.places.update(adapter.keys())
        self.loads += 1
        return adapter

    def forget(self, name: str) -> None:
        """Let an expert's weights go."""
        adapter = self._adapters.pop(name, None)
        if adapter is None:
            return
        self.held_bytes -= adapter_bytes(adapter)
        self.places.subtract(adapter.keys())
        position = self._positions.pop(name)
        self._free.append(position)
        for slab in self._slabs.values():
            slab.drop(position)

    def slab(
        self, path: str, names: Iterable[str], shape: tuple[int, int], like: Tensor
    ) -> tuple[Slab, dict[str, int]]:
        """Return a place's slab, in the dtype of `like`, and the positions of those of these experts that change it."""
        key = (path, like.dtype, like.device)
        slab = self._slabs.get(key)
        if slab is None:
            slab = self._slabs[key] = Slab(*shape, dtype=like.dtype, device=like.device)
        found = {}
        for name in names:
            part = self._adapters[name].get(path)
            if isinstance(part, LoraWeights | BottleneckWeights):
                position = found[name] = self._positions[name]
                if position not in slab.ranks:
                    slab.put(position, part)
        return slab, found

    def make_room(self, keep: Collection[str]) -> Iterator[str]:
        """Put out the least recently used until the limit is kept, and return who leaves, one after the other.

        keep: who must stay; used last, all of them. Raises ResourceError when these alone take more.
        """
        while self.limit_bytes is not None and self.held_bytes > self.limit_bytes:
            oldest = next((name for name in self._adapters if name not in keep), None)
            if oldest is None:
                raise ResourceError(
                    f"{len(keep)} experts are to run together, and {len(self._adapters)} of them take "
                    f"{self.held_bytes / 1e6:.1f} MB; --expert-memory allows {self.limit_bytes / 1e6:.1f} MB. Allow "
                    "more, or use fewer at once: LIB?experts=a,b, or a router with top_k (gates run all they weigh)."
                )
            self.forget(oldest)
            yield oldest


def is_trained(parts: Iterable[Part]) -> bool:
    """Return whether any of these weights is being trained: then they are read anew each time."""
    return any(tensor.requires_grad for part in parts for tensor in part.tensors.values())
