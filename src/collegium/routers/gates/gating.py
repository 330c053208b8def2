"""What gates are before and after they know their experts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Gate, Shelf
from collegium.models import Adapter, Base, lora_parts
from collegium.ops.choosing import top_softmax

Growth = Literal["exact", "refit"]
Kind = Literal["simplex", "open"]


@dataclass(frozen=True, eq=False)
class SlotGates:
    """A gate in each of some linear layers, each of which reads that layer's own input.

    experts: whose positions the gates speak of. elsewhere: every expert's weight at places without a gate.
    """

    experts: tuple[str, ...]
    slots: Mapping[str, Gate]
    growth: Growth = "exact"
    kind: Kind = "simplex"
    elsewhere: float = 1.0


@dataclass(frozen=True, eq=False)
class ProductGate:
    """Softmax over the k largest of heard(read(h) . v_e), at one layer or at some that read the same h.

    vectors: v, layer after layer. absent: minus infinity for who does not change a layer, None where everybody does.
    places: how many layers; of more than one it is asked with one axis of tokens, and answers with one of places first.
    """

    vectors: Float[Tensor, "input column"]
    absent: Float[Tensor, "*place_and_token expert"] | None
    top_k: int | None
    read: Callable[[Tensor], Tensor]
    heard: Callable[[Tensor], Tensor] | None = None
    places: int = 1

    def __call__(
        self, hidden: Float[Tensor, "*tokens input"]
    ) -> tuple[Float[Tensor, "... k"], Int[Tensor, "... k"] | None]:
        """Return the weights of the k largest, and whose they are."""
        logits = self.read(hidden) @ self.vectors
        if self.heard is not None:
            logits = self.heard(logits)
        if self.places > 1:
            logits = logits.unflatten(-1, (self.places, -1)).transpose(0, 1)
        if self.absent is not None:
            logits = logits + self.absent
        return top_softmax(logits, self.top_k)

    def joined(self, others: Sequence[Gate]) -> "ProductGate | None":
        """Return the gate that says what this one and the others say; None for others that read or hear differently."""
        every: list[ProductGate] = [self]
        own = (self.top_k, self.read, self.heard)
        for gate in others:
            if not isinstance(gate, ProductGate) or (gate.top_k, gate.read, gate.heard) != own:
                return None
            every.append(gate)
        absent = None
        if any(gate.absent is not None for gate in every):
            present = self.vectors.new_zeros(self.vectors.shape[1])
            absent = torch.stack([present if gate.absent is None else gate.absent for gate in every]).unsqueeze(1)
        return replace(self, vectors=torch.cat([gate.vectors for gate in every], 1), absent=absent, places=len(every))


@runtime_checkable
class Head(Protocol):
    """Reads the base's last hidden state; never looks at other positions."""

    def __call__(self, hidden: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "layer *tokens expert"]:
        """Return every expert's weight in every block of the base."""
        ...


@dataclass(frozen=True, eq=False)
class HeadGates:
    """A small head on the base's last hidden state that decides for all blocks at once: the base is read twice."""

    experts: tuple[str, ...]
    head: Head
    growth: Growth = "refit"
    kind: Kind = "simplex"


Gating = SlotGates | HeadGates
"""Gates over named experts."""


@runtime_checkable
class GateRecipe(Protocol):
    """Gates before they know their experts: a frozen dataclass, as made by `collegium.routers.arrow()`."""

    @property
    def name(self) -> str:
        """Its row in the table `GATES`."""
        ...

    @property
    def top_k(self) -> int | None:
        """How many experts keep weight at a position of a layer; None = all."""
        ...

    def bind_gates(
        self, experts: tuple[str, ...], *, base: Base, adapters: Mapping[str, Adapter], shelf: Shelf | None = None
    ) -> Gating:
        """Return the gates over these experts of a base.

        Raises RoutingError when they were never fitted, fit another base or cannot weigh such experts, and StaleRouter
        when the experts are no longer those of the fit.
        """
        ...


def check_top_k(top_k: int | None, name: str) -> None:
    """Raise RoutingError unless at least one expert keeps weight."""
    if top_k is not None and top_k < 1:
        raise RoutingError(f"{name}: top_k keeps at least one expert, got {top_k}.")


def low_rank_paths(
    experts: tuple[str, ...], adapters: Mapping[str, Adapter], *, name: str
) -> dict[str, tuple[int, ...]]:
    """Return module path -> which of the experts change it, by position.

    Raises RoutingError for an expert of another kind: such gates stand at low-rank changes of linear layers alone.
    """
    found: dict[str, list[int]] = {}
    for place, expert in enumerate(experts):
        parts = lora_parts(adapters[expert])
        odd = sorted({part.kind for part in adapters[expert].values()} - {"lora"})
        if odd or not parts:
            raise RoutingError(
                f"{name} weighs low-rank experts (`lora`) alone, {expert!r} is of kind {', '.join(odd) or 'none'}. "
                "Leave it out with ?experts=, or use xlora, uniform_gate or a router."
            )
        for path in parts:
            found.setdefault(path, []).append(place)
    return {path: tuple(places) for path, places in found.items()}


def spread_rows(
    rows: Mapping[int, Float[Tensor, " input"]], experts: int, base: Base
) -> tuple[Float[Tensor, "expert input"], Float[Tensor, " expert"] | None]:
    """Return one row per expert (0 where it has none), and what is added to each logit: minus infinity there.

    Nothing is added (None) where every expert has a row.
    """
    like = next(iter(rows.values()))
    table, absent = like.new_zeros(experts, len(like)), like.new_full((experts,), float("-inf"))
    for place, row in rows.items():
        table[place], absent[place] = row, 0.0
    own = None if len(rows) == experts else absent.to(base.device, torch.float32)
    return table.to(base.device, torch.float32), own
