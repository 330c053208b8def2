"""The report of an alignment: curves along training, before and after, texts side by side."""

from collections.abc import Mapping, Sequence
from typing import Any

from collegium.recipes.report import ColouredText, Report, line_chart, render

Progress = Mapping[int, Mapping[str, float]]

WORDS = {
    "loss": "DPO's loss, nats a pair",
    "kl_p_pi": "KL(p, pi), nats: distance of the target from the policy",
    "tv": "total variation of target and policy",
    "kl_pi_a": "KL(pi, a), nats: distance from the original",
    "distinct_2": "Distinct-2: different pairs of words by words",
    "self_bleu_5": "Self-BLEU-5 on words: 1 = all texts alike",
    "general_perplexity": "perplexity of general text",
}
"""Metric -> what the table calls it."""


def align_page(found: Mapping[str, Any], progress: Progress, *, samples: Sequence[tuple[str, str]]) -> str:
    """Return the page of `align run` as one HTML file."""
    return render(
        Report(
            title=f"Policy {found['name']}",
            summary=f"{found['original']} moved to {found['target']} by {found['method']}.",
            facts=facts_of(found),
            charts=charts_of(progress),
            texts=[
                ColouredText(f"text {number + 1}", [(one, "original", 0.2), (" | ", "", 0.0), (other, "policy", 0.6)])
                for number, (one, other) in enumerate(samples)
            ],
            tables=[
                (
                    "Before and after",
                    "Each with its 95 % interval, over fresh texts or over the texts drawn first.",
                    ("", "before", "after"),
                    metric_rows(found),
                )
            ],
            commands=[
                f"collegium generate '...' --model {found['library']}#{found['name']}",
                f"collegium align sample --model {found['library']}#{found['name']} --target '{found['target']}' --qrs",
            ],
            colours={"original": "#9aa5af", "policy": "#3b6fb6"},
        )
    )


def facts_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentences at the top."""
    ahead, before, after = found["ahead"], found["before"], found["after"]
    moments = "; ".join(
        f"{name} {before['moments'][name]:.3f} to {value:.3f}, wanted {ahead['wanted'][name]:.3f}"
        for name, value in after["moments"].items()
    )
    facts = {
        "Reached": moments,
        "Distance": f"KL(p, pi) {before['kl_p_pi']:.3f} to {after['kl_p_pi']:.3f} nats; "
        f"KL(pi, a) {after['kl_pi_a']:.3f}, the target itself {ahead['nats']:.3f} from the original",
        "Texts": f"{found['samples_seen']:,} learnt from, in {found['seconds'] / 60:.1f} minutes",
    }
    if "general_perplexity" in after:
        change = 100 * (after["general_perplexity"] / before["general_perplexity"] - 1)
        facts["Forgotten"] = (
            f"perplexity of general text {before['general_perplexity']:.2f} to {after['general_perplexity']:.2f} "
            f"({change:+.1f} %)"
        )
    return facts


def charts_of(progress: Progress) -> list[tuple[str, str, str]]:
    """Return heading, explanation and drawing of what was seen along training."""
    charts = []
    near = series(progress, "kl_p_pi")
    if near:
        band = [
            (low, high)
            for low, high in zip(_values(progress, "kl_p_pi_low"), _values(progress, "kl_p_pi_high"), strict=True)
        ]
        chart = line_chart({"KL(p, pi)": near}, bands={"KL(p, pi)": band}, x="updates", y="nats", title="to the target")
        charts.append(("How far the target is", "On the texts drawn first; the band is the 95 % interval.", chart))
    names = sorted({key for values in progress.values() for key in values if key.startswith("moment ")})
    if names:
        curves = {name.removeprefix("moment "): series(progress, name) for name in names}
        chart = line_chart(curves, x="updates", y="mean", title="features of the texts drawn")
        charts.append(("What the texts are like", "Means over each update's texts, which the proposal drew.", chart))
    away = series(progress, "kl_pi_a")
    if away:
        chart = line_chart({"KL(pi, a)": away}, x="updates", y="nats", title="from the original")
        charts.append(("How far it went", "Mean of ln pi - ln a over each update's texts.", chart))
    return charts


def series(progress: Progress, name: str) -> list[tuple[float, float]]:
    """Return (update, value) of a number that was seen at some updates."""
    return [(float(step), values[name]) for step, values in sorted(progress.items()) if name in values]


def _values(progress: Progress, name: str) -> list[float]:
    return [value for _, value in series(progress, name)]


def metric_rows(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Return a row a metric: its name, and each value with its interval."""
    sides = (found["before"], found["after"])
    rows = []
    for kind, of in (("moments", "mean of"), ("accuracy", "accuracy on")):
        for name in sides[1].get(kind, ()):
            one, other = (_told(each[kind][name], each["intervals"][kind][name]) for each in sides)
            rows.append((f"{of} {name}", one, other))
    for name, words in WORDS.items():
        if name in sides[1]:
            one, other = (_told(each[name], each["intervals"][name]) for each in sides)
            rows.append((words, one, other))
    return rows


def _told(value: float, interval: Sequence[float]) -> str:
    return f"{value:.3f} ({interval[0]:.3f} to {interval[1]:.3f})"
