"""The report of a build: what the page says and shows."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collegium.core.routing import BASE
from collegium.infer import Evaluation
from collegium.recipes.report import (
    ColouredText,
    Report,
    bar_chart,
    cost_chart,
    expert_colours,
    heat_map,
    learning_curves,
)

Curve = Sequence[tuple[int, float]]


@dataclass(frozen=True)
class Findings:
    """All that a build found out.

    evaluation: of the library's default composition. columns: rows of the comparison, as plain values.
    tokens_seen: expert -> tokens it was trained on, as its card says.
    curves: expert -> (tokens trained, held-out nats). baselines: what dense training reached, empty unless trained.
    """

    title: str
    source: str
    plan: Mapping[str, Any]
    evaluation: Evaluation
    columns: Sequence[Mapping[str, Any]]
    tokens_seen: Mapping[str, int]
    curves: Mapping[str, Curve]
    texts: Sequence[ColouredText]
    discovered: Mapping[str, Any]
    removed: Mapping[str, Any]
    baselines: Sequence[Mapping[str, Any]]
    commands: Sequence[str]
    default: str
    seconds: float


def make_report(found: Findings) -> Report:
    """Return the page of a build."""
    evaluation = found.evaluation
    experts = list(evaluation.matrix)
    rows = {BASE: evaluation.base, **evaluation.matrix, f"composed ({found.default})": evaluation.composed}
    intervals = dict(evaluation.intervals)
    intervals[f"composed ({found.default})"] = evaluation.intervals["composed"]
    domains = list(evaluation.base)
    note = (
        "Perplexity on held-out text with 95 % intervals over windows; green is better than the base, red is worse. "
        "Each expert should be best in its own column, and the composition close to the best of each."
    )
    charts = [("Every model on every domain", note, heat_map(rows, intervals=intervals, title="perplexity"))]
    charts.append(
        (
            "Learning",
            "Held-out loss of each expert on its own domain while it was trained.",
            learning_curves(found.curves, title="held-out loss"),
        )
    )
    charts.append(
        (
            "Bits per byte",
            "The same comparison in a unit that does not depend on the tokenizer.",
            bar_chart(_bits(found, domains), title="bits per byte", unit="bits a byte"),
        )
    )
    charts.append(
        (
            "Quality against speed",
            "Every way to compose these experts, measured on this machine: lower left is better.",
            cost_chart(_points(found.columns), title="mean perplexity against time"),
        )
    )
    return Report(
        title=found.title,
        summary=summary(found),
        facts=_facts(found),
        charts=charts,
        texts=found.texts,
        tables=_tables(found, domains),
        commands=found.commands,
        colours=expert_colours(experts),
    )


def summary(found: Findings) -> str:
    """Return what came out, in two sentences."""
    gains = [1 - found.evaluation.composed[name] / base for name, base in found.evaluation.base.items()]
    gaps = [found.evaluation.composed[name] / best - 1 for name, best in found.evaluation.oracle.items()]
    return (
        f"{len(found.evaluation.matrix)} experts, trained apart and composed by {found.default}, lower the base's "
        f"perplexity by {100 * min(gains):.0f} to {100 * max(gains):.0f} % on held-out text, within "
        f"{100 * max(gaps):.1f} % of the best single expert of each domain. Nobody told the model which domain it read."
    )


def _facts(found: Findings) -> dict[str, str]:
    routing = found.evaluation.routing
    facts = {
        "Base": found.source,
        "Training": f"{_counts(found.tokens_seen)} tokens",
        "Held-out": f"{_counts(found.evaluation.tokens)} scored tokens",
        "Time": f"{found.seconds / 60:.1f} minutes on {found.plan['device']} in {found.plan['dtype']}",
    }
    if routing is not None:
        facts["Routing"] = (
            f"{100 * routing.accuracy:.0f} % of windows end on their own expert, "
            f"{routing.regret_nats_per_token:.4f} nats a token behind the best single expert"
        )
    if found.discovered:
        facts["Discovery"] = (
            f"clusters found without labels agree with the domains to NMI {found.discovered['nmi']:.2f}"
        )
    if found.removed:
        facts["Growth"] = (
            "a further expert was added and removed; largest change of the composed log-probabilities afterwards: "
            f"{found.removed['largest_change']}"
        )
    facts["Dense"] = _dense_sentence(found)
    if found.baselines and found.discovered.get("untrainable"):
        facts["Cluster experts"] = f"none were trained: {found.discovered['untrainable']}"
    return facts


def _counts(tokens: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {count:,}" for name, count in tokens.items())


def _dense_sentence(found: Findings) -> str:
    if not found.baselines:
        return "no dense baseline was trained in this budget; `--budget full` trains them at equal tokens"
    composed = sum(math.log(value) for value in found.evaluation.composed.values()) / len(found.evaluation.composed)
    parts = []
    for row in (each for each in found.baselines if each["name"].startswith("dense")):
        dense = sum(math.log(value) for value in row["perplexity"].values()) / len(row["perplexity"])
        word = "better" if composed < dense else "worse"
        parts.append(f"{abs(100 * (math.exp(composed - dense) - 1)):.1f} % {word} than {row['name']}")
    return "the composition is " + ", ".join(parts) + " (geometric mean over domains, equal tokens in all)"


def _bits(found: Findings, domains: list[str]) -> dict[str, dict[str, float]]:
    composed = found.evaluation.bits_per_byte
    scale = {name: composed[name] / math.log(found.evaluation.composed[name]) for name in domains}
    base = {name: math.log(found.evaluation.base[name]) * scale[name] for name in domains}
    oracle = {name: math.log(found.evaluation.oracle[name]) * scale[name] for name in domains}
    return {"base": base, "composed": {name: composed[name] for name in domains}, "best single expert": oracle}


def _points(columns: Sequence[Mapping[str, Any]]) -> dict[str, tuple[float, float]]:
    points = {}
    for row in columns:
        if row["ms_per_token"] is not None:
            values = list(row["perplexity"].values())
            points[str(row["name"])] = (float(row["ms_per_token"]), sum(values) / len(values))
    return points


def _tables(found: Findings, domains: list[str]) -> list[tuple[str, str, Sequence[str], Sequence[Sequence[Any]]]]:
    rows = [
        [
            row["name"],
            *(f"{row['perplexity'][name]:.2f}" for name in domains),
            f"{row['experts_evaluated']:g}",
            "-" if row["ms_per_token"] is None else f"{row['ms_per_token']:.2f}",
            "-" if row["resident_mb"] is None else f"{row['resident_mb']:.0f}",
        ]
        for row in [*found.columns, *found.baselines]
    ]
    head = ["model", *domains, "rows a text", "ms a token", "resident MB"]
    note = "The same tokens in every row. Rows a text = forward rows a text costs above the shared trunk."
    tables: list[tuple[str, str, Sequence[str], Sequence[Sequence[Any]]]] = [("All compositions", note, head, rows)]
    if found.discovered:
        terms = [[name, size, ", ".join(words)] for name, size, words in found.discovered["clusters"]]
        words_note = "Clusters of the same training texts, found without labels (tf-idf, SVD, balanced k-means)."
        tables.append(("Discovered clusters", words_note, ["cluster", "documents", "top terms"], terms))
    return tables
