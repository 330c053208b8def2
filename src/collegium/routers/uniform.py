"""Everybody speaks equally."""

from dataclasses import dataclass

import torch

from collegium.core.protocols import PrefixRouter, Shelf, Tokenizer
from collegium.routers.held import check_experts, held_alike


@dataclass(frozen=True)
class Uniform:
    """Weight 1 / E for every expert."""

    @property
    def name(self) -> str:
        """Its row in the table."""
        return "uniform"

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router over these experts."""
        check_experts(experts)
        return held_alike(experts, torch.full((len(experts),), 1 / len(experts)))


def uniform() -> Uniform:
    """Return the recipe that gives every expert the same weight.

    >>> from collegium.core.protocols import Context
    >>> router = uniform().bind(("law", "code"))
    >>> router.start(Context(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long)))
    tensor([[0.5000, 0.5000]])
    """
    return Uniform()
