"""Residents: the experts whose weights lie in memory, loaded on first use, the least recently used one out first."""

from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping

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
    """Experts in memory, by name.

    limit_bytes: how much their weights may take, None = no limit. Names in use are never put out.
    """

    def __init__(self) -> None:
        """Start with nobody and no limit."""
        self.limit_bytes: int | None = None
        self.loads = 0
        self._adapters: OrderedDict[str, Adapter] = OrderedDict()
        self._positions: dict[str, int] = {}
        self._free: list[int] = []
        self._slabs: dict[tuple[str, torch.dtype, torch.device], Slab] = {}

    def __contains__(self, name: str) -> bool:
        """Return whether an expert's weights are in memory."""
        return name in self._adapters

    @property
    def held_bytes(self) -> int:
        """The bytes of all residents' weights."""
        return sum(map(adapter_bytes, self._adapters.values()))

    def adapter(self, name: str) -> Adapter:
        """Return a resident's adapter."""
        return self._adapters[name]

    def bring_in(self, names: Iterable[str], sources: Mapping[str, Source]) -> list[str]:
        """Make these experts resident and return those that had to leave for it.

        Raises ResourceError when they alone take more than the limit.
        """
        wanted = dict.fromkeys(names)
        for name in wanted:
            if name in self._adapters:
                self._adapters.move_to_end(name)
            else:
                self._adapters[name] = sources[name]()
                self._positions[name] = self._free.pop() if self._free else len(self._positions) + 1
                self.loads += 1
        return self._put_out(wanted)

    def forget(self, name: str) -> None:
        """Let an expert's weights go."""
        if self._adapters.pop(name, None) is None:
            return
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

    def _put_out(self, keep: Mapping[str, object]) -> list[str]:
        gone: list[str] = []
        while self.limit_bytes is not None and (held := self.held_bytes) > self.limit_bytes:
            oldest = next((name for name in self._adapters if name not in keep), None)
            if oldest is None:
                raise ResourceError(
                    f"the {len(keep)} experts run together take {held / 1e6:.1f} MB, --expert-memory allows "
                    f"{self.limit_bytes / 1e6:.1f} MB. Allow more, or use fewer experts at once (top_k)."
                )
            self.forget(oldest)
            gone.append(oldest)
        return gone


def is_trained(parts: Iterable[Part]) -> bool:
    """Return whether any of these weights is being trained: then they are read anew each time."""
    return any(tensor.requires_grad for part in parts for tensor in part.tensors.values())
