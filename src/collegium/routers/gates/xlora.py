"""An X-LoRA-like gate: the base reads first, and a small head on what it made of the text weighs every layer."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Shelf
from collegium.core.randomness import generator
from collegium.models import Adapter, Base
from collegium.routers.fitted import check_fit_base, exact_fit, fit_card
from collegium.routers.gates.gating import HeadGates, check_top_k
from collegium.routers.held import check_experts

XLORA = "xlora"
Scale = Literal["softmax", "sigmoid"]


@dataclass(frozen=True)
class Xlora:
    """Weights for each token, layer and expert from the base's last hidden state  [buehler2024xlora].

    pass 1: the base alone, with caches of its own, gives h;  z = W2 silu(W1 h + b1) + b2, a number per layer and expert
    pass 2: the base with experts, weighed by softmax over the experts (or sigmoid of each) of z

    All parts depend on each other, so that an expert that comes or goes makes the fit stale. With `sigmoid` the weights
    are open: any may be near 1 or all near 0. top_k keeps the largest of each layer, by softmax renormalised.
    Departures: one weight per block of the base in place of one per adapted layer; in training, too, the first pass is
    the base alone, where the paper runs it with all experts at equal weight. fit: the name it lies under.
    """

    top_k: int | None = None
    fit: str = XLORA

    def __post_init__(self) -> None:
        """Check the settings."""
        check_top_k(self.top_k, XLORA)

    @property
    def name(self) -> str:
        """Its row in the table."""
        return XLORA

    def bind_gates(
        self, experts: tuple[str, ...], *, base: Base, adapters: Mapping[str, Adapter], shelf: Shelf | None = None
    ) -> HeadGates:
        """Return the gates; raises RoutingError when they were never fitted or elsewhere, StaleRouter when stale."""
        check_experts(experts)
        tensors, card = exact_fit(experts, shelf, self.fit, router=XLORA)
        check_fit_base(card, base.fingerprint.short, self.fit)
        order = [card["order"].index(name) for name in experts]
        head = TextHead(
            {name: tensor.to(base.device) for name, tensor in tensors.items()},
            len(base.blocks),
            card["scale"],
            top_k=self.top_k,
            order=tuple(order),
        )
        return HeadGates(experts, head, kind="simplex" if card["scale"] == "softmax" else "open")


@dataclass(frozen=True, eq=False)
class TextHead:
    """The head. parameters: of its two layers, `inner.weight` to `outer.bias`. order: of the answer's experts."""

    parameters: Mapping[str, Tensor]
    layers: int
    scale: Scale
    top_k: int | None = None
    order: tuple[int, ...] | None = None

    def __call__(self, hidden: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "layer *tokens expert"]:
        """Return the weights of every expert in every block."""
        weights = self.parameters
        inner = torch.nn.functional.linear(hidden.float(), weights["inner.weight"], weights["inner.bias"])
        outer = torch.nn.functional.linear(
            torch.nn.functional.silu(inner), weights["outer.weight"], weights["outer.bias"]
        )
        logits = outer.view(*outer.shape[:-1], self.layers, -1).movedim(-2, 0)
        if self.order is not None:
            logits = logits[..., list(self.order)]
        return scaled(logits, self.scale, self.top_k)


def scaled(
    logits: Float[Tensor, "*batch expert"], scale: Scale, top_k: int | None = None
) -> Float[Tensor, "*batch expert"]:
    """Return softmax or sigmoid of the logits, 0 for all but the k largest.

    >>> scaled(torch.tensor([0.0, 0.0, -9.0]), "softmax", 2)
    tensor([0.5000, 0.5000, 0.0000])
    """
    if top_k is not None and top_k < logits.shape[-1]:
        least = logits.topk(top_k, dim=-1).indices
        kept = torch.zeros_like(logits, dtype=torch.bool).scatter(-1, least, True)
        logits = logits.masked_fill(~kept, float("-inf"))
    return logits.softmax(dim=-1) if scale == "softmax" else logits.sigmoid()


def fresh_head(base: Base, experts: int, *, width: int, scale: Scale, seed: int) -> TextHead:
    """Return a head to be fitted: its last matrix is 0, so that it begins with equal weights everywhere.

    With softmax these are 1 / E; with sigmoid the last bias makes them 1 / E, too.
    """
    if width < 1:
        raise RoutingError(f"xlora: the head has at least one inner unit, got a width of {width}.")
    hidden, layers = int(base.config.hidden_size), len(base.blocks)
    bound = hidden**-0.5
    inner = torch.empty(width, hidden).uniform_(-bound, bound, generator=generator(seed, "xlora", "inner"))
    start = 0.0 if scale == "softmax" or experts == 1 else -math.log(experts - 1)
    parameters = {
        "inner.weight": inner,
        "inner.bias": torch.zeros(width),
        "outer.weight": torch.zeros(layers * experts, width),
        "outer.bias": torch.full((layers * experts,), start),
    }
    return TextHead({name: each.to(base.device).requires_grad_() for name, each in parameters.items()}, layers, scale)


def keep_xlora(
    shelf: Shelf,
    name: str = XLORA,
    *,
    head: TextHead,
    experts: tuple[str, ...],
    base: str,
    documents: tuple[str, ...] = (),
) -> None:
    """Keep a fitted head; `experts` in the order it was fitted in, `base` the short fingerprint it was fitted on."""
    tensors = {key: each.detach().float().cpu().clone() for key, each in head.parameters.items()}
    if not all(bool(torch.isfinite(each).all()) for each in tensors.values()):
        raise RoutingError("xlora: the head's weights must be finite; lower the learning rate and fit again.")
    card = fit_card(XLORA, shelf, experts=experts, first=experts, base=base, order=list(experts), scale=head.scale)
    shelf.save_router(name, tensors, {**card, "documents": list(documents)})


def xlora(top_k: int | None = None, fit: str = XLORA) -> Xlora:
    """Return the recipe of the X-LoRA-like gates.

    >>> xlora().name
    'xlora'
    """
    return Xlora(top_k, fit)
