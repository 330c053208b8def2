"""What enters the first block that a judge changes, of every text it is trained on, computed once and kept in memory.

Below that block a text's states do not change while the judge is trained. They are computed on first use in batches
that depend on nothing but the texts' order, so a fit that goes on after a pause comes to the same weights.
"""

import contextlib
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.models import Base, RowPlan
from collegium.models.trunk import Trunk
from collegium.rewards.texts import TextBatch

_BATCH = 16
_MEGABYTE = 1e6


@dataclass(eq=False)
class KeptStates:
    """The states of texts at the trunk's end, in the base's dtype, one tensor a batch."""

    trunk: Trunk
    texts: TextBatch
    _parts: dict[int, Float[Tensor, "text seq hidden"]] = field(default_factory=dict, repr=False)

    def given(self, rows: Int[Tensor, " row"], width: int) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the base takes the states of these texts as read."""
        return self.trunk.given(self.of(rows, width))

    def read(self) -> None:
        """Compute all of them that were not asked for yet."""
        for number in range(-(-len(self.texts) // _BATCH)):
            self._part(number)

    def of(self, rows: Int[Tensor, " row"], width: int) -> Float[Tensor, "row width hidden"]:
        """Return the states of these texts."""
        base = self.trunk.base
        states = torch.zeros(len(rows), width, int(base.config.hidden_size), dtype=base.dtype, device=base.device)
        for place, row in enumerate(rows.tolist()):
            part = self._part(row // _BATCH)[row % _BATCH][:width]
            states[place, : len(part)] = part
        return states

    def _part(self, number: int) -> Float[Tensor, "text seq hidden"]:
        if number not in self._parts:
            first = number * _BATCH
            batch = self.texts.take(torch.arange(first, min(first + _BATCH, len(self.texts))))
            self._parts[number] = self.trunk.states(batch.tokens, lengths=batch.lengths)
        return self._parts[number]


def kept_states(
    base: Base, places: Iterable[str], texts: TextBatch, *, plan: RowPlan, limit_mb: int
) -> KeptStates | None:
    """Return the states of texts below what is changed, None where they take more than the limit or would not be exact.

    places: the module paths that are changed, those of an adapter.
    """
    first = min(base.sites[path].block for path in places)
    size = texts.tokens.numel() * int(base.config.hidden_size) * base.dtype.itemsize
    if not first or size > limit_mb * _MEGABYTE:
        return None
    trunk = Trunk(base, first)
    probe = texts.take(torch.arange(min(2, len(texts))))
    if not trunk.frozen or trunk.refusal(probe.tokens, lengths=probe.lengths, plan=plan):
        return None
    return KeptStates(trunk, texts)
