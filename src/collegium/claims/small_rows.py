"""What the small-scale pieces add up to: a claim's metrics, and the table of all models."""

from collections.abc import Mapping
from typing import Any

from collegium.claims.experiment import PieceResult

_FLOAT_BYTES = 4


def measured(done: Mapping[str, PieceResult]) -> dict[str, float]:
    """Return every metric of one seed: from the table, from an expert that came and went, and counts."""
    growth, table = done["growth"], dict(done["judged"]["metrics"])
    counts = {row["model"]: row for row in rows(done)}
    every = counts["ensemble posterior"]
    return {
        **table,
        "nmi": done["parts"]["clusters"]["nmi"],
        "changed_files": growth["changed_files"],
        "largest_change_after_removal": growth["largest_change_after_removal"],
        "retrain_over_add": growth["retrain_seconds"] / growth["add_seconds"],
        "retrain_over_mix": growth["retrain_seconds"] / growth["mix_seconds"],
        "retrain_over_removal": growth["retrain_seconds"] / growth["remove_seconds"],
        "top_2_evaluates_gap": counts["ensemble posterior top-2"]["experts_evaluated"] - every["experts_evaluated"],
        "cached_top_2_evaluates_gap": counts["ensemble cached prior top-2"]["experts_evaluated"] - 2,
        "cached_top_2_slowdown": counts["ensemble cached prior top-2"]["ms_per_token"] / every["ms_per_token"],
    }


def rows(done: Mapping[str, PieceResult]) -> list[dict[str, Any]]:
    """Return a row per model: perplexity, trained parameters, tokens, seconds, experts evaluated, ms, resident MB."""
    trained = {name.removeprefix("train-"): piece for name, piece in done.items() if name.startswith("train-")}
    speed, perplexity = done["speed"], done["judged"]["perplexity"]
    return [
        {"model": model, "perplexity": values, **_cost(model, trained, speed)} for model, values in perplexity.items()
    ]


def _cost(model: str, trained: Mapping[str, PieceResult], speed: PieceResult) -> dict[str, Any]:
    members, evaluated = _members(model, trained), _evaluated(model, trained)
    label = str(evaluated)
    held = sum(trained[name]["parameters"] for name in members) * _FLOAT_BYTES / 1e6
    return {
        "trained_parameters": sum(trained[name]["parameters"] for name in members),
        "tokens": sum(trained[name]["tokens"] for name in members),
        "seconds": sum(trained[name]["seconds"] for name in members),
        "experts_evaluated": evaluated,
        "ms_per_token": speed[f"ms_{label}"],
        "resident_mb": speed["base_mb"] + (0.0 if model == "merge uniform" else held),
    }


def _members(model: str, trained: Mapping[str, PieceResult]) -> tuple[str, ...]:
    """Return the trained models that a row is made of."""
    if model in trained:
        return (model,)
    if model == "base":
        return ()
    family = next((family for family in ("random", "clusters") if model.startswith(family.removesuffix("s"))), "")
    parts = tuple(name for name in trained if name.startswith(("random-", "clusters-")))
    if family:
        return tuple(name for name in parts if name.startswith(f"{family}-"))
    return tuple(name for name in trained if name not in parts and not name.startswith("dense"))


def _evaluated(model: str, trained: Mapping[str, PieceResult]) -> int:
    """Return how many experts' rows a text costs."""
    if model in ("base", "merge uniform"):
        return 0
    if model in trained or model == "oracle":
        return 1
    coarse = model in ("ensemble cached prior top-2",)
    return 2 if coarse else len(_members(model, trained))
