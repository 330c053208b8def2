"""Arrow: a token speaks with the experts whose own direction its state lies along; nothing is fitted."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Shelf
from collegium.library.derived import Derivations, kept_prototypes
from collegium.models import Adapter, Base
from collegium.routers.gates.gating import ProductGate, SlotGates, check_top_k, low_rank_paths, spread_rows
from collegium.routers.held import check_experts

ARROW = "arrow"
TOP_K = 4
"""The documented example's."""


@dataclass(frozen=True)
class Arrow:
    """Prototypes of the experts' own weights as gates  [ostapenko2024arrow].

    v_e = top right singular vector of B_e A_e,  logit_e = |v_e . h| / T,  softmax over the k largest, at each layer.

    h is the layer's input. temperature: T; 0 or less means the square root of the layer's width. top_k: None = all.
    Experts may differ in rank and layers: one that does not change a layer has no logit there.
    Departure: prototypes are exact, from QR of both factors and the SVD of the small core.
    """

    top_k: int | None = TOP_K
    temperature: float = 1.0

    def __post_init__(self) -> None:
        """Check the settings."""
        check_top_k(self.top_k, ARROW)
        if not math.isfinite(self.temperature):
            raise RoutingError(
                f"arrow: temperature is a finite number, got {self.temperature}; 0 means the square root of the width."
            )

    @property
    def name(self) -> str:
        """Its row in the table."""
        return ARROW

    def bind_gates(
        self, experts: tuple[str, ...], *, base: Base, adapters: Mapping[str, Adapter], shelf: Shelf | None = None
    ) -> SlotGates:
        """Return the gates; raises RoutingError for experts that are not low-rank."""
        check_experts(experts)
        kept = shelf if isinstance(shelf, Derivations) else None
        paths = low_rank_paths(experts, adapters, name=ARROW)
        prototypes = [kept_prototypes(kept, name, adapters[name]) for name in experts]
        slots = {}
        for path, places in paths.items():
            rows, absent = spread_rows({place: prototypes[place][path] for place in places}, len(experts), base)
            temperature = self.temperature if self.temperature > 0 else math.sqrt(rows.shape[1])
            slots[path] = ProductGate((rows / temperature).T.contiguous(), absent, self.top_k, Tensor.float, torch.abs)
        return SlotGates(experts, slots)


def arrow(top_k: int | None = TOP_K, temperature: float = 1.0) -> Arrow:
    """Return the recipe of Arrow's gates.

    >>> import torch
    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> base = pico_base()
    >>> experts = {"law": random_adapter(base, 0), "code": random_adapter(base, 1, rank=2, targets=["q_proj"])}
    >>> gates = arrow(top_k=1).bind_gates(("law", "code"), base=base, adapters=experts)
    >>> weights, index = gates.slots["model.layers.0.mlp.up_proj"](torch.ones(1, 64))
    >>> weights, index
    (tensor([[1.]]), tensor([[0]]))
    """
    return Arrow(top_k, temperature)
