"""Everybody equally, at every layer: what gates are compared with."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.protocols import Shelf
from collegium.models import Adapter, Base
from collegium.routers.gates.gating import SlotGates
from collegium.routers.held import check_experts


@dataclass(frozen=True)
class UniformGate:
    """Weight 1 / E for every expert at every layer, of whatever kind: `mix` with the router `uniform`, as gates."""

    @property
    def name(self) -> str:
        """Its row in the table."""
        return "uniform_gate"

    @property
    def top_k(self) -> None:
        """Nobody is left out."""
        return

    def bind_gates(
        self, experts: tuple[str, ...], *, base: Base, adapters: Mapping[str, Adapter], shelf: Shelf | None = None
    ) -> SlotGates:
        """Return the gates."""
        check_experts(experts)
        share = 1 / len(experts)
        gate = EqualGate(torch.full((len(experts),), share, device=base.device))
        linear = base.linear_sites()
        paths = dict.fromkeys(path for name in experts for path in adapters[name] if path in linear)
        return SlotGates(experts, dict.fromkeys(paths, gate), elsewhere=share)


@dataclass(frozen=True, eq=False)
class EqualGate:
    """The same weights whatever is read."""

    weights: Float[Tensor, " expert"]

    def __call__(self, hidden: Float[Tensor, "*tokens input"]) -> tuple[Float[Tensor, "*tokens expert"], None]:
        """Return the weights at every position."""
        return self.weights.expand(*hidden.shape[:-1], -1), None


def uniform_gate() -> UniformGate:
    """Return the recipe of the gates that give every expert the same weight.

    >>> uniform_gate().name
    'uniform_gate'
    """
    return UniformGate()
