"""The tables and pictures of docs/alignment.md, from what bench/alignment/compare.py kept."""

from collections.abc import Mapping
from typing import Any

from collegium.recipes.report import line_chart

LABELS = {
    "gdc++": "GDC++, matching with a baseline",
    "gdc": "GDC, matching without",
    "fdpg-jensen_shannon": "f-DPG, matching by Jensen-Shannon",
    "kl_control": "KL-control, reward less drift",
    "reinforce": "REINFORCE, reward alone",
}
"""Method -> what table and pictures call it."""
METRICS = {
    "kl_p_pi": "KL(p, pi)",
    "kl_pi_a": "KL(pi, a)",
    "distinct_2": "Distinct-2",
    "self_bleu_5": "Self-BLEU-5",
    "general_perplexity": "general perplexity",
}

Kept = Mapping[str, Mapping[str, Any]]
"""Method -> the run's card and its way."""


def table(kept: Kept) -> str:
    """Return where every method came to, as Markdown, above it the original model."""
    first = next(iter(kept.values()))["card"]["result"]
    feature = next(iter(first["before"]["moments"]))
    head = ["", f"mean of `{feature}`", *METRICS.values(), "minutes"]
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines.append(f"| the original | {' | '.join(_cells(first['before'], feature))} | - |")
    for name, each in kept.items():
        result = each["card"]["result"]
        cells = " | ".join(_cells(result["after"], feature))
        lines.append(f"| **{LABELS[name]}** | {cells} | {result['seconds'] / 60:.1f} |")
    ahead, card = first["ahead"], next(iter(kept.values()))["card"]
    dates = ", ".join(dict.fromkeys(each["card"]["date"] for each in kept.values()))
    machines = "; ".join(dict.fromkeys(each["card"]["machine"] for each in kept.values()))
    settings = card["config"]["align"]
    return "\n".join(
        [
            *lines,
            "",
            f"`python bench/alignment/compare.py`, {dates}, {machines}, seed {card['config']['common']['seed']}: "
            f"target `{first['target']}` after `{card['config']['prompt']}`, {ahead['nats']:.2f} nats from the "
            f"original; {first['samples_seen']:,} texts of at most {settings['tokens']} tokens, in batches of "
            f"{settings['batch']}; measured on {card['config']['fresh']} fresh texts, distances from the target on "
            f"{card['config']['pool']} texts of the original. Minutes of the whole command.",
        ]
    )


def _cells(side: Mapping[str, Any], feature: str) -> list[str]:
    low, high = side["intervals"]["moments"][feature]
    shown = [f"{side['moments'][feature]:.2f} ({low:.2f} to {high:.2f})"]
    return [*shown, *(f"{side[name]:,.2f}" if name in side else "-" for name in METRICS)]


def pictures(kept: Kept) -> dict[str, str]:
    """Return name -> drawing: the feature, the distance from the target and that from the original along the way.

    Distances are cut at three times that of the target from the original, so that one that explodes hides no other.
    """
    result = next(iter(kept.values()))["card"]["result"]
    feature = next(iter(result["before"]["moments"]))
    most = round(3 * result["ahead"]["nats"], 1)
    shown = {
        "reached": (f"moment {feature}", "mean", f"{feature} in the texts drawn"),
        "target": ("kl_p_pi", "nats", f"KL(p, pi): distance from the target, cut at {most}"),
        "drift": ("kl_pi_a", "nats", f"KL(pi, a): distance from the original, cut at {most}"),
    }
    found = {}
    for name, (key, unit, title) in shown.items():
        curves = {
            LABELS[method]: [
                (float(line["step"]), min(float(line[key]), most)) for line in each["progress"] if key in line
            ]
            for method, each in kept.items()
        }
        found[name] = line_chart(curves, x="updates", y=unit, title=title)
    return found
