"""Merge: one set of weights. W' = W + sum_e w_e s_e B_e A_e for adapters, sum_e w_e theta_e for whole models."""

from collections.abc import Mapping

import torch

from collegium.compose.routed import only_router
from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, Shelf, Tokenizer
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.models import Base
from collegium.routers import Recipe

TEXTLESS = ("uniform", "fixed", "cached_prior")
"""Routers whose weights do not depend on the text: a merge is made before any text is seen."""

FOLDED = ("lora", "ia3")
"""Kinds of adapters that are changes of matrices."""


def textless_weights(
    recipe: Recipe, experts: tuple[str, ...], *, shelf: Shelf | None, tokenizer: Tokenizer | None
) -> dict[str, float]:
    """Return the weights of a router that needs no text.

    Raises RoutingError for any other: a merge is one set of weights for all texts.
    """
    router = only_router(recipe, what="merge")
    if router.name not in TEXTLESS:
        raise RoutingError(
            f"merge makes one set of weights for all texts, so its router is one of {', '.join(TEXTLESS)}; "
            f"got {router.name!r}. Use mix or ensemble to route by text."
        )
    bound = router.bind(experts, shelf=shelf, tokenizer=tokenizer)
    nothing = torch.full((1, 1), -1)
    state = bound.start(Context(nothing, torch.zeros(1, dtype=torch.long), None))
    seen = torch.zeros(1, 1, len(bound.experts)) if bound.needs_likelihoods else None
    routing, _ = bound.step(state, nothing, seen)
    return dict(zip(bound.experts, routing.dense()[0, -1].tolist(), strict=True))


def check_weights(weights: Mapping[str, float], known: tuple[str, ...]) -> dict[str, float]:
    """Return the weights that are not zero; raises RoutingError on unknown names or values that are not finite."""
    unknown = [name for name in weights if name not in known and name != BASE]
    if unknown:
        raise RoutingError(
            f"merge weights name {unknown}, which are no experts here. {nearest(unknown[0], (BASE, *known))}"
        )
    values = torch.tensor(list(weights.values()) or [0.0])
    if not torch.isfinite(values).all():
        raise RoutingError(f"merge weights must be finite, got {dict(weights)}; write numbers.")
    return {name: float(weight) for name, weight in weights.items() if weight != 0}


def fold(base: Base, keys: Mapping[str, str], weights: Mapping[str, float]) -> Base:
    """Return a base of its own with the weighted adapters folded into its matrices; the rest is shared.

    Raises RoutingError, naming them, for experts whose kind is no change of a matrix.
    """
    kinds = {name: next(iter(base.adapter(keys[name]).values())).kind for name in weights}
    odd = [f"{name} is of kind {kind}" for name, kind in kinds.items() if kind not in FOLDED]
    if odd:
        raise RoutingError(
            f"merge folds changes into matrices, which experts of kinds {' and '.join(FOLDED)} are: {', '.join(odd)}. "
            "Use mix or ensemble, or leave them out."
        )
    return base.folded({keys[name]: weight for name, weight in weights.items()})
