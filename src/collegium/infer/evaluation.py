"""What an evaluation says: perplexity of every expert everywhere, of the composition, and how well it was routed."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.routing import BASE, Routing
from collegium.infer.tables import (
    HeldOut,
    TokenTable,
    bits_per_byte,
    nats_per_token,
    perplexities,
    window_nats,
)
from collegium.ops.intervals import perplexity_interval


@dataclass(frozen=True)
class RoutingQuality:
    """How well windows were routed.

    accuracy: share of windows whose last weight peaks on their own domain's expert.
    regret_nats_per_token: composed minus oracle. ece: expected calibration error of the last weight, 10 bins.
    abstained: share of windows with all weight on the base.
    """

    accuracy: float
    regret_nats_per_token: float
    ece: float
    abstained: float


@dataclass(frozen=True)
class Evaluation:
    """Perplexities by domain, with 95 % intervals over windows; `to_json` is what `eval --json` prints."""

    base: Mapping[str, float]
    matrix: Mapping[str, Mapping[str, float]]
    composed: Mapping[str, float]
    oracle: Mapping[str, float]
    bits_per_byte: Mapping[str, float]
    routing: RoutingQuality | None
    intervals: Mapping[str, Mapping[str, tuple[float, float]]]
    tokens: Mapping[str, int]
    skipped_documents: int = 0
    seconds: float = 0.0
    answers: Mapping[str, Any] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None stands where there is no finite number, and for all of `routing` unrouted."""
        routing = self.routing
        found = {
            "base": dict(self.base),
            "matrix": {name: dict(row) for name, row in self.matrix.items()},
            "composed": dict(self.composed),
            "oracle": dict(self.oracle),
            "bits_per_byte": dict(self.bits_per_byte),
            "routing": {
                "accuracy": routing.accuracy if routing else None,
                "regret_nats_per_token": routing.regret_nats_per_token if routing else None,
                "ece": routing.ece if routing else None,
            },
            "intervals": {name: {key: list(pair) for key, pair in row.items()} for name, row in self.intervals.items()},
            "tokens": dict(self.tokens),
            "skipped_documents": self.skipped_documents,
            **({"answers": dict(self.answers)} if self.answers else {}),
            "seconds": round(self.seconds, 3),
        }
        return {key: _finite(value) for key, value in found.items()}


def _finite(value: Any) -> Any:  # noqa: ANN401 - plain values
    """Return plain values with None for NaN and infinity, which JSON lacks."""
    if isinstance(value, dict):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def evaluate_scores(
    table: TokenTable,
    composed: Float[Tensor, "window seq"],
    routing: Routing | None,
    *,
    seconds: float = 0.0,
    skipped_documents: int = 0,
    answers: Mapping[str, Any] | None = None,
) -> Evaluation:
    """Return the evaluation of a composition, given every voice's table and the composition's own scores."""
    text = table.text
    experts = [voice for voice in table.voices if voice != BASE]
    matrix = {name: perplexities(table.column(name), text) for name in experts}
    base = perplexities(table.column(BASE), text) if BASE in table.voices else {}
    oracle = best_experts(table)
    intervals = {name: perplexity_intervals(table.column(name), text) for name in table.voices}
    intervals["composed"] = perplexity_intervals(composed, text)
    return Evaluation(
        base=base,
        matrix=matrix,
        composed=perplexities(composed, text),
        oracle={domain: matrix[name][domain] for domain, name in oracle.items()},
        bits_per_byte=bits_per_byte(composed, text),
        routing=None if routing is None else routing_quality(table, composed, routing),
        intervals=intervals,
        tokens={domain: int(text.counted[text.of(domain)].sum()) for domain in text.domain_names},
        skipped_documents=skipped_documents,
        seconds=seconds,
        answers=answers or {},
    )


def best_experts(table: TokenTable) -> dict[str, str]:
    """Return, for each domain, the single expert with fewest nats on it: the oracle."""
    experts = [voice for voice in table.voices if voice != BASE]
    if not experts:
        return {}
    return {
        domain: min(experts, key=lambda name: nats_per_token(table.column(name), table.text, domain))
        for domain in table.text.domain_names
    }


def perplexity_intervals(scores: Float[Tensor, "window seq"], text: HeldOut) -> dict[str, tuple[float, float]]:
    """Return the 95 % interval of each domain's perplexity, drawn over windows."""
    units = window_nats(scores, text)
    result = {}
    for domain in text.domain_names:
        rows = units[text.of(domain)]
        bounds = perplexity_interval(rows[:, 0], rows[:, 1])
        result[domain] = (bounds.low, bounds.high)
    return result


def routing_quality(table: TokenTable, composed: Float[Tensor, "window seq"], routing: Routing) -> RoutingQuality:
    """Return accuracy, regret, calibration and abstention of a routing over held-out windows."""
    text = table.text
    last = _final_weights(routing, text)
    confidence, peak = last.max(-1)
    known = torch.tensor([domain in routing.experts for domain in text.domains])
    own = torch.tensor([routing.experts.index(domain) if domain in routing.experts else -1 for domain in text.domains])
    right = peak == own
    regrets = [
        nats_per_token(composed, text, domain) - nats_per_token(table.column(name), text, domain)
        for domain, name in best_experts(table).items()
    ]
    silent = [routing.experts[place] == BASE for place in peak.tolist()]
    return RoutingQuality(
        accuracy=float(right[known].double().mean()) if bool(known.any()) else math.nan,
        regret_nats_per_token=sum(regrets) / len(regrets) if regrets else math.nan,
        ece=calibration_error(confidence[known], right[known]) if bool(known.any()) else math.nan,
        abstained=sum(silent) / max(len(silent), 1),
    )


def _final_weights(routing: Routing, text: HeldOut) -> Float[Tensor, "window expert"]:
    dense = routing.dense()
    if dense.shape[1] == 1:
        return dense[:, 0].expand(len(text.domains), -1)
    return dense[torch.arange(len(dense)), text.lengths - 1]


def calibration_error(confidence: Float[Tensor, " window"], right: Tensor, *, bins: int = 10) -> float:
    """Return the expected calibration error: mean |confidence - accuracy| over equal-width bins, by their share.

    >>> calibration_error(torch.tensor([0.75, 0.75]), torch.tensor([True, False]))
    0.25
    """
    place = (confidence * bins).long().clamp(max=bins - 1)
    total = 0.0
    for number in range(bins):
        inside = place == number
        if bool(inside.any()):
            gap = confidence[inside].double().mean() - right[inside].double().mean()
            total += float(gap.abs()) * float(inside.double().mean())
    return total
