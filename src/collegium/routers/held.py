"""Routers that decide once, from the context, and hold."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, PrefixRouter, RouterState
from collegium.core.routing import BASE, Routing, dense_weights


@dataclass(frozen=True)
class HeldRouter:
    """A coarse `PrefixRouter`: `decide` turns the context into one row of weights per text, which are then held."""

    experts: tuple[str, ...]
    decide: Callable[[Context], Float[Tensor, "batch expert"]]
    growth: Literal["exact", "refit"] = "exact"
    needs_likelihoods: bool = False

    def start(self, context: Context) -> RouterState:
        """Return the weights decided for each text."""
        return self.decide(context)

    def step(
        self,
        state: RouterState,
        tokens: Int[Tensor, "batch seq"],
        log_likelihoods: Float[Tensor, "batch seq expert"] | None,
    ) -> tuple[Routing, RouterState]:
        """Return the routing held (seq axis of size one), and the same state."""
        return Routing(self.experts, state[:, None]), state


def held_alike(experts: tuple[str, ...], weights: Float[Tensor, " expert"]) -> HeldRouter:
    """Return the router that gives every text the same weights."""
    return HeldRouter(experts, lambda context: weights.expand(context.batch, -1))


def check_experts(experts: tuple[str, ...]) -> None:
    """Raise RoutingError unless there is at least one expert, each named once, none of them `base`."""
    if not experts or BASE in experts or len(set(experts)) != len(experts):
        raise RoutingError(
            f"a router is bound to at least one expert, each named once and none named {BASE!r}; got {list(experts)}."
        )


def context_weights(router: PrefixRouter, context: Context, *, names: tuple[str, ...]) -> Float[Tensor, "batch expert"]:
    """Return a router's weights after the context, in the order of `names`: how any router becomes coarse.

    Raises RoutingError when the router needs likelihoods, which a context does not hold.
    """
    if router.needs_likelihoods:
        raise RoutingError("a router that needs likelihoods cannot decide from a context alone.")
    padding = torch.arange(context.tokens.shape[1]) >= context.lengths[:, None]
    first = context.tokens.new_full((context.batch, 1), -1)  # a token of padding: an empty context has weights too
    tokens = torch.cat([first, context.tokens.masked_fill(padding, -1)], dim=1)
    routing, _ = router.step(router.start(context), tokens, None)
    return dense_weights(routing, names)[:, -1].expand(context.batch, -1)
