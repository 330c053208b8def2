"""Keys and values of rows that come and go: a transformers cache with layers of ours.

A layer holds one entry per text below the first block that is run by row, one per row above it. Texts stand aligned at
the right end; what stands left of a short one is zeros that its mask hides. Sliding windows are a matter of masks too:
every layer keeps all columns, which is exact and costs memory where windows are short.
"""

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin

from collegium.core.errors import BaseModelError

_ROOM = 32
"""How many columns are set aside beyond those in use when a layer is laid out anew."""
_ATTENTION = ("full_attention", "sliding_attention", "chunked_attention", "dummy")


class RowLayer(CacheLayerMixin):
    """One block's keys and values, set aside ahead and grown by doubling: a step copies nothing that it wrote before.

    In use are the columns from `start` to `end`.
    """

    is_sliding = False
    is_croppable = False
    supports_early_init = False

    def __init__(self) -> None:
        """Start without anything; shapes are known when the first keys come."""
        self.is_initialized = False
        self.start = self.end = 0
        self._keys, self._values = torch.empty(0), torch.empty(0)

    @property
    def keys(self) -> Float[Tensor, "entry head seq dim"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The keys in use."""
        return self._keys[:, :, self.start : self.end]

    @property
    def values(self) -> Float[Tensor, "entry head seq dim"]:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The values in use."""
        return self._values[:, :, self.start : self.end]

    @property
    def seq(self) -> int:
        """How many columns are in use."""
        return self.end - self.start

    @property
    def held_bytes(self) -> int:
        """The memory set aside."""
        return sum(each.numel() * each.element_size() for each in (self._keys, self._values))

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        """Set memory aside for what is about to come; transformers' name for it."""
        room = key_states.shape[2] + _ROOM
        self._keys, self._values = _aside(key_states, room), _aside(value_states, room)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: object, **kwargs: object
    ) -> tuple[Tensor, Tensor]:
        """Append columns and return all in use."""
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        end = self.end + key_states.shape[2]
        if end > self._keys.shape[2]:
            self._grow(self.seq + key_states.shape[2])
            end = self.end + key_states.shape[2]
        self._keys[:, :, self.end : end] = key_states
        self._values[:, :, self.end : end] = value_states
        self.end = end
        return self.keys, self.values

    def _grow(self, needed: int) -> None:
        keys, values, seq = self.keys, self.values, self.seq
        room = max(needed, 2 * seq)
        self._keys, self._values = _aside(keys, room), _aside(values, room)
        self._keys[:, :, :seq], self._values[:, :, :seq] = keys, values
        self.start, self.end = 0, seq

    def rewind(self, columns: int) -> None:
        """Forget the last so many columns; they are written over."""
        self.end -= columns

    def get_seq_length(self) -> int:
        """Return how many columns are in use."""
        return self.seq

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """Return how many columns a mask has for so many more, and where they begin."""
        return self.seq + query_length, 0

    def get_max_length(self) -> int:
        """Return -1: there is no end."""
        return -1

    def select(self, entries: Int[Tensor, " kept"], *, dropped: int = 0) -> "RowLayer":
        """Return a layer of its own with these entries, without so many columns at the left."""
        return _laid_out([(self, entries, dropped)], self.seq - dropped)

    def join(self, other: "RowLayer", entries: Int[Tensor, " kept"]) -> "RowLayer":
        """Return a layer with these entries of another's behind all of this one's, aligned at the right end."""
        own = torch.arange(self._keys.shape[0])
        return _laid_out([(self, own, 0), (other, entries, 0)], max(self.seq, other.seq))


def _aside(like: Tensor, columns: int) -> Tensor:
    return like.new_zeros(*like.shape[:2], columns, like.shape[3])


def _laid_out(parts: Sequence[tuple[RowLayer, Tensor, int]], seq: int) -> RowLayer:
    """Return one layer with these entries of each part under each other, the last columns of all at the same place."""
    made = RowLayer()
    if not parts[0][0].is_initialized:
        return made
    entries = sum(len(chosen) for _, chosen, _ in parts)
    like = parts[0][0]
    made._keys = _aside(like._keys[:1].expand(entries, -1, -1, -1), seq + _ROOM)
    made._values = _aside(like._values[:1].expand(entries, -1, -1, -1), seq + _ROOM)
    begin = 0
    for part, chosen, dropped in parts:
        end, where = begin + len(chosen), chosen.to(like._keys.device)
        left = seq - (part.seq - dropped)
        made._keys[begin:end, :, left:seq] = part.keys[where, :, dropped:]
        made._values[begin:end, :, left:seq] = part.values[where, :, dropped:]
        begin = end
    made.start, made.end, made.is_initialized = 0, seq, True
    return made


def open_cache(config: Any, blocks: int) -> Cache:  # noqa: ANN401 - a transformers configuration
    """Return an empty cache with a layer per block.

    Raises BaseModelError for a base whose blocks remember in another way than by keys and values.
    """
    kinds = getattr(config, "layer_types", None) or ()
    strange = sorted({kind for kind in kinds if kind not in _ATTENTION})
    if strange:
        raise BaseModelError(
            f"texts are continued with keys and values alone, this base has blocks of type {', '.join(strange)}; "
            "use it for scoring, or take a base whose blocks all attend."
        )
    return Cache(layers=[RowLayer() for _ in range(blocks)])
