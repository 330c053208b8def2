"""From the pieces of the experiment on arithmetic to the numbers of C4 to C7, in nats a counted token."""

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

from collegium.claims.experiment import PieceResult

MADE = ("base", "first half", "second half", "both halves' text")
MERGED = ("parameters merged", "changes merged", "parameters merged, other start", "changes merged, other start")


def measured(done: Mapping[str, PieceResult]) -> dict[str, float]:
    """Return every metric of one seed."""
    return {
        **halves_metrics(done["halves"]["nats"]),
        **negation_metrics(done["negated"], done["written"]),
        **analogy_metrics(done["analogy"]["nats"]),
    }


def halves_metrics(nats: Mapping[str, Mapping[str, float]]) -> dict[str, float]:
    """Return C4 and C5, each of the worse domain; nats: domain -> model -> loss on that domain."""
    worst: dict[str, float] = {}
    for found in nats.values():
        merged, changes = found["parameters merged"], found["changes merged"]
        lost = found["parameters merged, other start"] - merged
        lost_of_changes = found["changes merged, other start"] - changes
        each = {
            "better_half_minus_merged": min(found["first half"], found["second half"]) - merged,
            "merged_minus_whole": merged - found["both halves' text"],
            "other_start_minus_same_start": lost,
            "parameters_lose_more_than_changes": lost - lost_of_changes,
        }
        worst = {name: min(worst.get(name, value), value) for name, value in each.items()}
    return worst


def negation_metrics(negated: PieceResult, written: PieceResult) -> dict[str, float]:
    """Return C6: how the words' probability and rate fall with the strength, and what other texts pay for it."""
    strengths, mass, rates = (
        list(map(float, each)) for each in (negated["strengths"], negated["mass"], written["rates"])
    )
    own, general = negated["own_nats"], negated["general_nats"]
    falls = [math.log(before / after) for before, after in itertools.pairwise(mass)]
    return {
        "smallest_fall_of_log_mass": min(falls),
        "rate_rank_correlation": rank_correlation(strengths, rates),
        "rate_left": rates[-1] / rates[0] if rates[0] else 1.0,
        "general_rise": general[-1] - general[0],
        "general_over_own_rise": (general[-1] - general[0]) / max(own[-1] - own[0], 1e-6),
    }


def rank_correlation(one: Sequence[float], two: Sequence[float]) -> float:
    """Return Spearman's rank correlation; 0 where either is the same everywhere.

    >>> rank_correlation([0.0, 0.5, 1.0], [0.3, 0.2, 0.1])
    -1.0
    """
    from scipy.stats import spearmanr

    if len(set(one)) == 1 or len(set(two)) == 1:
        return 0.0
    return round(float(spearmanr(one, two)[0]), 12)  # pyright: ignore[reportArgumentType]


def analogy_metrics(nats: Mapping[str, float]) -> dict[str, float]:
    """Return C7: what the analogy gains over the source's module, as it is and scaled as freely."""
    return {
        "source_minus_analogy": nats["task of source"] - nats["analogy"],
        "scaled_source_minus_analogy": nats["task of source, scaled"] - nats["analogy"],
    }


def rows(done: Mapping[str, PieceResult]) -> list[dict[str, Any]]:
    """Return a row per model and text: perplexity, and what was counted or chosen."""
    found: list[dict[str, Any]] = [
        {"model": f"{model} ({domain})", "perplexity": math.exp(value)}
        for domain, nats in done["halves"]["nats"].items()
        for model, value in nats.items()
    ]
    negated, written = done["negated"], done["written"]
    for place, strength in enumerate(negated["strengths"]):
        row: dict[str, Any] = {
            "model": f"base - {strength:g} {negated['target']}",
            "perplexity": {name: math.exp(values[place]) for name, values in negated["nats"].items()},
            "word_mass": negated["mass"][place],
            "word_rate": written["rates"][place],
        }
        found.append(row)
    analogy = done["analogy"]
    for model, value in analogy["nats"].items():
        weight = {"weight": analogy["chosen"][model]} if model in analogy["chosen"] else {}
        found.append({"model": f"{model}, on the target's task", "perplexity": math.exp(value), **weight})
    return found
