"""What the pieces on private experts add up to: the claims' metrics, and the table of all ways of weighing them."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from collegium.claims.experiment import PieceResult
from collegium.claims.private_setup import mixed_name, pairs

METHODS = ("base", "uniform", "arrow", "phatgoose", "xlora", "search", "oracle", "clusters-uniform", "clusters-arrow")
"""`clusters`: of the experts of clusters; else of the private ones."""
_MIXED = "mixed"


def measured(done: Mapping[str, PieceResult], *, domains: Sequence[str]) -> dict[str, float]:
    """Return every metric of one seed; differences are in nats a scored token, means over the domains of a kind."""
    own = {method: _mean(done, method, domains) for method in METHODS}
    mixed = {method: _mean(done, method, _mixed(domains)) for method in METHODS}
    strange = {method: _mean(done, method, _unseen(done, domains)) for method in METHODS}
    clusters = done["clusters"]
    return {
        "own_family_texts": done["chosen-arrow"]["texts"],
        "nmi_minus_random": clusters["nmi"] - clusters["random_nmi"],
        "private_minus_clusters_unseen": strange["uniform"] - strange["clusters-uniform"],
        "base_minus_private_unseen": strange["base"] - strange["uniform"],
        "uniform_minus_arrow": own["uniform"] - own["arrow"],
        "arrow_minus_phatgoose": own["arrow"] - own["phatgoose"],
        "arrow_minus_learned": own["arrow"] - own["xlora"],
        "arrow_minus_oracle": own["arrow"] - own["oracle"],
        "uniform_minus_arrow_mixed": mixed["uniform"] - mixed["arrow"],
        "search_minus_arrow_mixed": mixed["search"] - mixed["arrow"],
        "arrow_minus_uniform_unseen": strange["arrow"] - strange["uniform"],
    }


def rows(done: Mapping[str, PieceResult], *, domains: Sequence[str]) -> list[dict[str, Any]]:
    """Return a row per way of weighing: perplexity by domain, on mixed text, seconds of fitting and of scoring.

    Rows of gates also say how often they weigh the own domain's experts the most; a row of clusters says how they agree
    with the domains.
    """
    found = []
    for method in METHODS:
        names = (*domains, *_unseen(done, domains))
        perplexity = {name: math.exp(_mean(done, method, (name,))) for name in names}
        perplexity[_MIXED] = math.exp(_mean(done, method, _mixed(domains)))
        found.append({"model": _title(method), "perplexity": perplexity, **_extra(method, done)})
    return found


def _extra(method: str, done: Mapping[str, PieceResult]) -> dict[str, float]:
    extra = {"scoring_seconds": done[f"score-{method}"]["seconds"]}
    fitted = done.get("search" if method == "search" else f"fit-{method}")
    if fitted is not None:
        extra["fitting_seconds"] = fitted["seconds"]
    chosen = done.get(f"chosen-{method}")
    if chosen is not None:
        extra |= {"own_family_texts": chosen["texts"], "own_family_tokens": chosen["tokens"]}
    trained = [each for name, piece in done.items() if name.startswith(_trains(method)) for each in _experts(piece)]
    if trained:
        extra |= {name: sum(each[name] for each in trained) for name in ("tokens", "seconds", "parameters")}
    if method == "clusters-uniform":
        extra |= {"nmi": done["clusters"]["nmi"], "random_nmi": done["clusters"]["random_nmi"]}
    return extra


def _trains(method: str) -> str:
    if method == "base":
        return "nothing-"
    return "cluster-" if method.startswith("clusters") else "private-"


def _experts(piece: PieceResult) -> list[Mapping[str, Any]]:
    if "tokens" in piece:
        return [piece]
    return list(piece.values())


def _title(method: str) -> str:
    return method.replace("-", " ") if method == "base" or method.startswith("clusters") else f"private {method}"


def _mean(done: Mapping[str, PieceResult], method: str, domains: Sequence[str]) -> float:
    nats = done[f"score-{method}"]["nats"]
    return sum(nats[domain] for domain in domains) / len(domains)


def _mixed(domains: Sequence[str]) -> tuple[str, ...]:
    return tuple(mixed_name(first, second) for first, second in pairs(domains))


def _unseen(done: Mapping[str, PieceResult], domains: Sequence[str]) -> tuple[str, ...]:
    known = {*domains, *_mixed(domains)}
    return tuple(name for name in done["score-base"]["nats"] if name not in known)
