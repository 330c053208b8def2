"""Pictures of the ways that policies took, drawn from an experiment's table: means over seeds, look by look."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collegium.claims.tables import Row
from collegium.recipes.report import line_chart

CURVE = "curve"
"""The column that holds a way."""
_AXES = {
    "texts": "texts learnt from",
    "reached": "share of texts that keep the constraint",
    "kl_p_pi": "KL(p, pi), nats",
    "kl_pi_a": "KL(pi, a), nats",
    "general": "nats a token of general text",
    "ratio": "variance with the baseline over without",
    "rule": "share of texts that keep the rule",
}
_METHODS = {"gdc": "GDC", "gdc++": "GDC++", "reinforce": "REINFORCE"}


@dataclass(frozen=True)
class Picture:
    """One picture: what grows, what is shown, and of which policies, by the label of each."""

    title: str
    x: str
    y: str
    policies: Mapping[str, str]


_SHE = {"gdc she 64": _METHODS["gdc"], "gdc++ she 64": _METHODS["gdc++"], "reinforce she": _METHODS["reinforce"]}
_BATCHES = {
    f"{name} she {batch}": f"{_METHODS[name]}, batches of {batch}"
    for batch in (16, 64, 256)
    for name in ("gdc", "gdc++")
}
_ALIGN = {
    "target": Picture("a word: distance of the target from the policy (D4)", "texts", "kl_p_pi", _BATCHES),
    "drift": Picture("a word: distance from the original (D5)", "texts", "kl_pi_a", _SHE),
    "forgetting": Picture("a word: general text against the share reached (D14)", "reached", "general", _SHE),
    "half": Picture(
        "a half: share reached (D7)",
        "texts",
        "reached",
        {"gdc++ gender 0": _METHODS["gdc++"], "reinforce gender": _METHODS["reinforce"]},
    ),
    "variance": Picture("variance of the gradient (D3)", "texts", "ratio", {"gdc++ she 64": _METHODS["gdc++"]}),
}
_CHAIN = {
    "rule": Picture(
        "what the rule says as policies go further after a reward (X2)",
        "kl_pi_a",
        "rule",
        {
            f"{name}, beta {beta}": f"{name}, beta {beta}"
            for name in ("arliss", "joint", "average")
            for beta in (0.3, 0.1)
        },
    )
}
PICTURES: Mapping[str, Mapping[str, Picture]] = {"toy_align": _ALIGN, "small_align": _ALIGN, "toy_chain": _CHAIN}
"""Experiment -> name -> picture of its table."""


def picture_names(label: str) -> dict[str, str]:
    """Return picture -> file name, of a table that an experiment left."""
    experiment = label.rpartition("-")[0]
    return {name: f"claims-{experiment}-{name}.svg" for name in PICTURES.get(experiment, ())}


def pictures(label: str, rows: Sequence[Row]) -> dict[str, str]:
    """Return file name -> drawing for a table."""
    own = PICTURES.get(label.rpartition("-")[0], {})
    return {file: _drawn(own[name], rows) for name, file in picture_names(label).items()}


def _drawn(picture: Picture, rows: Sequence[Row]) -> str:
    ways = {label: way(rows, policy) for policy, label in picture.policies.items()}
    lines = {label: [(look[picture.x], look[picture.y]) for look in each] for label, each in ways.items() if each}
    return line_chart(lines, x=_AXES[picture.x], y=_AXES[picture.y], title=picture.title)


def way(rows: Sequence[Row], policy: str) -> list[dict[str, float]]:
    """Return the means over seeds of what was seen of a policy, look by look; empty for one that was not moved.

    >>> way([{"policy": "a", "curve": [{"texts": 0.0}]}, {"policy": "a", "curve": [{"texts": 2.0}]}], "a")
    [{'texts': 1.0}]
    """
    several: list[Sequence[Mapping[str, Any]]] = [row[CURVE] for row in rows if row["policy"] == policy]
    return [_mean(looks) for looks in zip(*several, strict=True)]


def _mean(looks: Sequence[Mapping[str, float]]) -> dict[str, float]:
    found = {name: sum(look[name] for look in looks) / len(looks) for name in looks[0]}
    if found.get("variance dpg"):
        found["ratio"] = found["variance dpg++"] / found["variance dpg"]
    return found
