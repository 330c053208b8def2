"""The one value that every router returns."""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError

BASE = "base"
"""The reserved name of the base model in a routing."""

_SUM_TOLERANCE = 1e-4


@dataclass(frozen=True)
class Routing:
    """Who speaks, and how loudly, at each position.

    `weights[b, s]` are the weights with which text b is continued after position s: they depend on tokens up to and
    including s alone. Coarser routing has axes of size one (`batch`, `seq`).

    experts: names, each once; may hold the reserved name `base`.
    weights: one per entry of `experts`, or per entry of `index`.
    index:   sparse routing: positions in `experts`, distinct along the last axis.
    kind:    `simplex` = non-negative and summing to 1; `open` = any finite weights (mix and merge alone).

    Raises RoutingError where the weights break their kind.

    >>> Routing(("law", "code"), torch.tensor([[[0.25, 0.75]]])).top_k(1).dense()
    tensor([[[0., 1.]]])
    """

    experts: tuple[str, ...]
    weights: Float[Tensor, "batch seq k"]
    index: Int[Tensor, "batch seq k"] | None = None
    kind: Literal["simplex", "open"] = "simplex"

    def __post_init__(self) -> None:
        """Check names, shapes and the kind's bounds."""
        if len(set(self.experts)) != len(self.experts):
            raise RoutingError(f"a routing names each expert once, got {self.experts}.")
        k = self.weights.shape[-1]
        if self.index is None and k != len(self.experts):
            raise RoutingError(f"a dense routing has one weight per expert: {len(self.experts)} experts, {k} weights.")
        if self.index is not None and self.index.shape != self.weights.shape:
            raise RoutingError(f"index {tuple(self.index.shape)} and weights {tuple(self.weights.shape)} must agree.")
        if not torch.isfinite(self.weights).all():
            raise RoutingError("routing weights must be finite; a router returned NaN or infinity.")
        if self.kind == "simplex":
            self._check_simplex()

    def _check_simplex(self) -> None:
        if (self.weights < 0).any():
            raise RoutingError(f"simplex weights are non-negative, got {float(self.weights.min()):.4g}.")
        gap = float((self.weights.detach().sum(-1) - 1).abs().max()) if self.weights.numel() else 0.0
        if gap > _SUM_TOLERANCE:
            raise RoutingError(f"simplex weights sum to 1 (counting `base`), off by {gap:.2g}.")

    def dense(self) -> Float[Tensor, "batch seq expert"]:
        """Return the weights with one column per expert."""
        if self.index is None:
            return self.weights
        shape = (*self.weights.shape[:-1], len(self.experts))
        return self.weights.new_zeros(shape).scatter(-1, self.index, self.weights)

    def top_k(self, k: int | None) -> "Routing":
        """Return the routing with the k largest weights alone (None = all); a simplex is renormalised.

        Ties go to the expert named first.
        """
        if k is None:
            return self
        if k < 1:
            raise RoutingError(f"top_k keeps at least one expert, got {k}.")
        weights = self.dense()
        if k >= weights.shape[-1]:
            return self
        index = weights.argsort(dim=-1, descending=True, stable=True)[..., :k]
        kept = weights.gather(-1, index)
        if self.kind == "simplex":
            kept = kept / kept.sum(-1, keepdim=True)
        return Routing(self.experts, kept, index, self.kind)

    def log_weights(self) -> Float[Tensor, "batch seq expert"]:
        """Return the dense weights' logarithms, minus infinity where an expert is silent."""
        return self.dense().log()


def dense_weights(routing: Routing, names: tuple[str, ...]) -> Float[Tensor, "batch seq expert"]:
    """Return a routing's weights in the order of `names`; experts it does not know get zero.

    Raises RoutingError when the routing gives weight to a name that `names` lacks.
    """
    weights = routing.dense()
    columns = {name: column for column, name in enumerate(routing.experts)}
    missing = [name for name in routing.experts if name not in names]
    if missing and bool(weights[..., [columns[name] for name in missing]].any()):
        raise RoutingError(f"the router gives weight to {missing}, but this model has only {list(names)}.")
    zero = weights.new_zeros(weights.shape[:-1])
    return torch.stack([weights[..., columns[name]] if name in columns else zero for name in names], dim=-1)
