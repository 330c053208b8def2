"""The user says who speaks."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from collegium.core.errors import RoutingError
from collegium.core.protocols import PrefixRouter, Shelf, Tokenizer
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.routers.held import check_experts, held_alike

_ROUNDING = 1e-6


@dataclass(frozen=True)
class Fixed:
    """The given weights; what is missing to 1 goes to `base`.

    Raises RoutingError when a weight is negative or not finite, or when they sum to more than 1.
    """

    weights: Mapping[str, float]

    def __post_init__(self) -> None:
        """Check the simplex."""
        odd = {name: weight for name, weight in self.weights.items() if not 0 <= weight <= 1 or math.isnan(weight)}
        if odd:
            raise RoutingError(
                f"fixed weights are a simplex, each between 0 and 1, got {odd}; merge alone (LIB?compose=merge) takes "
                "any finite ones."
            )
        total = math.fsum(self.weights.values())
        if total > 1 + _ROUNDING:
            raise RoutingError(f"fixed weights sum to at most 1 (the rest goes to `base`), got {total:.6g}.")

    @property
    def name(self) -> str:
        """Its row in the table."""
        return "fixed"

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router over these experts; raises RoutingError on a name that is not among them."""
        check_experts(experts)
        for name in self.weights:
            if name not in (*experts, BASE):
                raise RoutingError(f"fixed gives weight to an unknown expert {name!r}. {nearest(name, experts)}")
        rest = 1 - math.fsum(weight for name, weight in self.weights.items() if name != BASE)
        weights = torch.tensor([self.weights.get(name, 0.0) for name in experts])
        if rest <= _ROUNDING:
            return held_alike(experts, weights)
        return held_alike((*experts, BASE), torch.cat([weights, torch.tensor([rest])]))


def fixed(weights: Mapping[str, float]) -> Fixed:
    """Return the recipe with these weights; what is missing to 1 goes to `base`.

    >>> fixed({"law": 0.75}).bind(("law", "code")).experts
    ('law', 'code', 'base')
    """
    return Fixed(dict(weights))
