"""PHATGOOSE: each expert learns, once it is trained, which states of a layer are its own."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Shelf
from collegium.core.tables import nearest
from collegium.models import Adapter, Base
from collegium.ops.choosing import standardised
from collegium.routers.fitted import (
    Fit,
    change_fit,
    check_fit_base,
    covering_fit,
    fit_card,
    is_fitted,
    load_fit,
    with_row,
    without_row,
)
from collegium.routers.gates.gating import ProductGate, SlotGates, check_top_k, low_rank_paths, spread_rows
from collegium.routers.held import check_experts

PHATGOOSE = "phatgoose"
TOP_K = 2

GateVectors = Mapping[str, Float[Tensor, " input"]]
"""Module path -> one expert's gate vector there."""


@dataclass(frozen=True)
class Phatgoose:
    """One gate vector per layer and expert, learnt on the expert's own texts  [muqeeth2024phatgoose].

    fit:       everything is frozen, and sigmoid(g . h) multiplies the expert's change of the layer; g starts at 0 and
               is trained for some steps on the expert's own documents.
    inference: logit_e = g'_e . h' / (sqrt(width) T), g' and h' less their mean and divided by their standard
               deviation; softmax over the k largest.

    From memory of the paper; its scale is that of dot products, sqrt(width) times the cosine. An expert that does not
    change a layer has no logit there. fit: the name it lies under in the library.
    """

    top_k: int | None = TOP_K
    temperature: float = 1.0
    fit: str = PHATGOOSE

    def __post_init__(self) -> None:
        """Check the settings."""
        check_top_k(self.top_k, PHATGOOSE)
        if not 0 < self.temperature < math.inf:
            raise RoutingError(f"phatgoose: temperature is positive and finite, got {self.temperature}.")

    @property
    def name(self) -> str:
        """Its row in the table."""
        return PHATGOOSE

    def bind_gates(
        self, experts: tuple[str, ...], *, base: Base, adapters: Mapping[str, Adapter], shelf: Shelf | None = None
    ) -> SlotGates:
        """Return the gates; raises RoutingError when they were never fitted, StaleRouter when one lacks its own."""
        check_experts(experts)
        paths = low_rank_paths(experts, adapters, name=PHATGOOSE)
        tensors, card = covering_fit(experts, shelf, self.fit, router=PHATGOOSE)
        check_fit_base(card, base.fingerprint.short, self.fit)
        slots = {}
        for path, places in paths.items():
            vectors = {place: _vector(tensors, experts[place], path, self.fit) for place in places}
            rows, absent = spread_rows(vectors, len(experts), base)
            scaled = standardised(rows) / (math.sqrt(rows.shape[1]) * self.temperature)
            slots[path] = ProductGate(scaled.T.contiguous(), absent, self.top_k, _standardised)
        return SlotGates(experts, slots)


@dataclass(frozen=True, eq=False)
class LearningGate:
    """The gate by which an expert's vector is learnt: sigmoid(g . h) for the one expert there is."""

    vector: Float[Tensor, " input"]

    def __call__(self, hidden: Float[Tensor, "*tokens input"]) -> tuple[Float[Tensor, "*tokens one"], None]:
        """Return how far the expert is let through."""
        return (hidden.float() @ self.vector).sigmoid()[..., None], None


def phatgoose(top_k: int | None = TOP_K, temperature: float = 1.0, fit: str = PHATGOOSE) -> Phatgoose:
    """Return the recipe of PHATGOOSE's gates.

    >>> phatgoose(top_k=1).top_k
    1
    """
    return Phatgoose(top_k, temperature, fit)


def grow_phatgoose(
    shelf: Shelf,
    name: str = PHATGOOSE,
    *,
    expert: str,
    vectors: GateVectors,
    base: str,
    documents: tuple[str, ...] = (),
) -> None:
    """Keep one expert's gate vectors, in a new fit where there is none; no other expert's change.

    base: the short fingerprint of the base they were learnt on. documents: hashes of what they were learnt from.
    """
    rows = {row_key(expert, path): _checked(expert, vector) for path, vector in vectors.items()}

    def add(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        check_fit_base(card, base, name)
        kept = {key: each for key, each in tensors.items() if not key.startswith(row_key(expert))}
        learnt = {**card["documents"], expert: list(documents)}
        return {**kept, **rows}, {**with_row(card, shelf, expert), "documents": learnt}

    if not is_fitted(shelf, name):
        shelf.save_router(name, {}, fit_card(PHATGOOSE, shelf, experts=(), first=(), base=base, documents={}))
    change_fit(shelf, name, add, router=PHATGOOSE)


def check_grows(shelf: Shelf, name: str, *, base: str) -> None:
    """Raise RoutingError where a fit is kept that no vectors learnt on this base can join."""
    if is_fitted(shelf, name):
        check_fit_base(load_fit(shelf, name, router=PHATGOOSE)[1], base, name)


def shrink_phatgoose(shelf: Shelf, name: str = PHATGOOSE, *, expert: str) -> None:
    """Drop one expert's gate vectors; nothing else changes."""

    def drop(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        if expert not in card["experts"]:
            raise RoutingError(f"phatgoose: the fit has no expert {expert!r}. {nearest(expert, card['experts'])}")
        kept = {key: each for key, each in tensors.items() if not key.startswith(row_key(expert))}
        learnt = {each: hashes for each, hashes in card["documents"].items() if each != expert}
        return kept, {**without_row(card, expert), "documents": learnt}

    change_fit(shelf, name, drop, router=PHATGOOSE)


def row_key(expert: str, path: str = "") -> str:
    """Return what an expert's vector at a layer is kept as; without a path, how all of its keys begin."""
    return f"row/{expert}/{path}"


def _standardised(hidden: Tensor) -> Tensor:
    return standardised(hidden.float())


def _vector(tensors: Mapping[str, Tensor], expert: str, path: str, fit: str) -> Tensor:
    found = tensors.get(row_key(expert, path))
    if found is None:
        raise RoutingError(
            f"fit {fit!r} has no gate vector of {expert!r} at {path!r}; fit it again: `collegium router fit phatgoose "
            "DATA --library LIB`."
        )
    return found


def _checked(expert: str, vector: Float[Tensor, " input"]) -> Float[Tensor, " input"]:
    if not torch.isfinite(vector).all():
        raise RoutingError(f"phatgoose: gate vectors must be finite, those of {expert!r} are not.")
    return vector.detach().float().cpu().clone()
