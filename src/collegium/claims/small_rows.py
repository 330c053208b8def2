"""What the small-scale pieces add up to: a claim's metrics, and the table of all models."""

from collections.abc import Mapping
from typing import Any

from collegium.claims.experiment import PieceResult

_FLOAT_BYTES = 4


def measured(done: Mapping[str, PieceResult]) -> dict[str, float]:
    """Return every metric of one seed: from the table, from an expert that came and went, and counts."""
    growth, table, speed = done["growth"], dict(done["judged"]["metrics"]), done["speed"]
    evaluated, ms = speed["evaluated"], speed["ms"]
    return {
        **table,
        "nmi": done["parts"]["nmi"],
        "changed_files": growth["changed_files"],
        "largest_change_after_removal": growth["largest_change_after_removal"],
        "retrain_over_add": growth["retrain_seconds"] / growth["add_seconds"],
        "retrain_over_mix": growth["retrain_seconds"] / growth["mix_seconds"],
        "retrain_over_removal": growth["retrain_seconds"] / growth["remove_seconds"],
        "workers_differing": done["workers"]["differing"],
        "two_workers_over_one": done["workers"]["two_seconds"] / done["workers"]["one_seconds"],
        "answer_gain": growth["answer_gain"],
        "top_2_evaluates_gap": abs(evaluated["ensemble posterior top-2"] - evaluated["ensemble posterior"]),
        "cached_top_2_evaluates_gap": abs(evaluated["ensemble cached prior top-2"] - 2),
        "cached_top_2_slowdown": ms["ensemble cached prior top-2"] / ms["ensemble posterior"],
    }


def rows(done: Mapping[str, PieceResult]) -> list[dict[str, Any]]:
    """Return a row per model: perplexity, trained parameters, tokens, seconds, experts evaluated, ms, resident MB.

    A trained model also has the learning rate chosen for its family and its best held-out loss; what became of an
    added and a removed expert has seconds alone.
    """
    trained = {name.removeprefix("train-"): piece for name, piece in done.items() if name.startswith("train-")}
    found = [
        {"model": model, "perplexity": values, **_cost(model, trained, done["speed"])}
        for model, values in done["judged"]["perplexity"].items()
    ]
    growth = done["growth"]
    return found + [
        {"model": model, "seconds": growth[seconds]}
        for model, seconds in (
            ("train and add an expert, answer", "add_seconds"),
            ("leave an expert out, answer", "mix_seconds"),
            ("remove an expert, answer", "remove_seconds"),
        )
    ]


def _cost(model: str, trained: Mapping[str, PieceResult], speed: PieceResult) -> dict[str, Any]:
    members = _members(model, trained)
    held = sum(trained[name]["parameters"] for name in members) * _FLOAT_BYTES / 1e6
    cost = {
        "trained_parameters": sum(trained[name]["parameters"] for name in members),
        "tokens": sum(trained[name]["tokens"] for name in members),
        "seconds": sum(trained[name]["seconds"] for name in members),
        "resident_mb": speed["base_mb"] + (0.0 if model == "merge uniform" else held),
    }
    if model in speed["ms"]:
        cost |= {"experts_evaluated": speed["evaluated"][model], "ms_per_token": speed["ms"][model]}
    if model in trained:
        cost |= {name: trained[model][name] for name in ("rate", "held_out_nats")}
    return cost


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
