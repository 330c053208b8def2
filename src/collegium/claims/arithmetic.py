"""Exact claims about arithmetic on adapters: C1, C2, C3."""

from collections.abc import Mapping

import torch
from torch import Tensor

from collegium.claims.experiment import Place, one_piece
from collegium.experts.algebra import (
    compress,
    delta_of_adapter,
    negated_factor,
    negated_factors,
    parameterwise_sum,
    weighted_sum,
)
from collegium.models import Adapter, Base, LoraWeights, RowPlan
from collegium.testing.pico import pico_base, random_adapter

WEIGHTS = (-0.5, 0.25, 0.5, 0.9)
"""Weights a of the sum a * one + (1 - a) * two."""


def negation(place: Place) -> dict[str, float]:
    """Return C1 and C2 on a pico base: the largest difference of log-probabilities that a law allows none of."""
    base = pico_base(place.number)
    adapter = random_adapter(base, place.number)
    said = {"expert": _said(base, adapter), "base": _said(base, {})}
    twice = compress(-(-1 * delta_of_adapter(adapter))).adapter
    once = compress(-delta_of_adapter(adapter)).adapter
    factors = [negated_factor(adapter, factor="a"), negated_factor(adapter, factor="b")]
    doubled = [negated_factor(factors[0], factor="a"), negated_factor(factors[1], factor="b")]
    return {
        "double_negation_gap": _gap(_said(base, twice), said["expert"]),
        "double_factor_negation_gap": max(_gap(_said(base, each), said["expert"]) for each in doubled),
        "both_factors_gap": _gap(_said(base, negated_factors(adapter)), said["expert"]),
        "one_factor_gap": max(_gap(_said(base, each), _said(base, once)) for each in factors),
        "negation_without_effect": float(_gap(_said(base, once), said["expert"]) < 1e-3),
    }


def _said(base: Base, adapter: Adapter) -> Tensor:
    """Return the log-probabilities of fixed tokens under the base with an adapter."""
    tokens = torch.arange(24).view(2, 12)
    base.attach("asked", adapter)
    try:
        return base.logprobs_rows(tokens, plan=RowPlan.one("asked"))[0]
    finally:
        base.detach("asked")


def _gap(one: Tensor, two: Tensor) -> float:
    return float((one - two).abs().max())


def cross_terms(place: Place) -> dict[str, float]:
    """Return C3 in double precision: distances from the formula, of shared factors, and of weights summing to 1.3."""
    one, two = (_double(random_adapter(pico_base(place.number), place.number + each, scale=1.0)) for each in (0, 100))
    shared = {path: LoraWeights(one[path].a, part.b) for path, part in two.items()}
    off_formula, off_shared, uneven = 0.0, 0.0, 0.0
    for a in WEIGHTS:
        misses = _misses(one, two, (a, 1 - a))
        for path, miss in misses.items():
            cross = -a * (1 - a) * (one[path].b - two[path].b) @ (one[path].a - two[path].a)
            off_formula = max(off_formula, _gap(miss, cross))
        off_shared = max(off_shared, _largest(_misses(one, shared, (a, 1 - a))))
        uneven = max(uneven, _largest(_misses(one, shared, (a, 1.3 - a))))
    return {
        "formula_gap": off_formula,
        "shared_factor_gap": off_shared,
        "other_sums_without_cross_terms": float(uneven < 1e-3),
    }


def _double(adapter: Mapping[str, LoraWeights]) -> dict[str, LoraWeights]:
    return {path: LoraWeights(part.a.double(), part.b.double(), part.scale) for path, part in adapter.items()}


def _misses(
    one: Mapping[str, LoraWeights], two: Mapping[str, LoraWeights], weights: tuple[float, float]
) -> dict[str, Tensor]:
    """Return the parameter-wise sum minus the sum of changes at every layer."""
    apart = parameterwise_sum([one, two], weights)
    together = weighted_sum([delta_of_adapter(one), delta_of_adapter(two)], weights)
    return {path: part.delta() - together.entries(path, torch.float64) for path, part in apart.items()}


def _largest(misses: Mapping[str, Tensor]) -> float:
    return max(float(miss.abs().max()) for miss in misses.values())


ARITHMETIC = {name: one_piece(name, law) for name, law in {"negation": negation, "cross_terms": cross_terms}.items()}
