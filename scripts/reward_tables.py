"""The tables of docs/rewards.md, from what bench/rewards/compare.py wrote."""

from collections.abc import Callable, Mapping, Sequence
from statistics import mean
from typing import Any

LABELS = {
    "joint": "joint, an adapter of the experts' rank",
    "joint-total": "joint, an adapter as large as all experts'",
    "joint-whole": "joint, the whole model",
    "multi": "multi, an output a domain and a gate",
    "more": "MoRE, experts inside",
    "arliss": "ARLISS, an adapter a domain",
    "rodos": "RODOS, a model a domain",
}
"""Name of a comparison's design -> what the table calls it."""


Found = Mapping[str, Mapping[str, Any]]
"""Design's name -> what fitting and judging it gave."""


def designs(kept: Found) -> str:
    """Return all designs with their accuracy by domain, the router's, their parameters and minutes, as Markdown."""
    found = {name: kept[name] for name in LABELS if name in kept}
    first = next(iter(found.values()))["eval"]
    domains = list(first["accuracy"])
    head = ["accuracy", *domains, "mean", "routed rightly", "million in memory", "a text reads", "fit", "judge"]
    rows = [["words alone (tf-idf)", *shares(first["floor"], domains), *["-"] * 5]]
    for name, each in found.items():
        judged = each["eval"]
        rows.append([f"**{LABELS[name]}**", *shares(judged["accuracy"], domains), *costs(each)])
        if judged["router_accuracy"] is not None:
            for route, label in (("average", "mean of its judges"), ("oracle", "each domain's own judge")):
                rows.append([f"... {label}", *shares(judged["routes"][route], domains), *["-"] * 5])
    counts = ", ".join(f"{domain} {first['pairs'][domain]}" for domain in domains)
    kinds = ", ".join(f"{domain}: {first['kinds'][domain]}" for domain in domains)
    return "\n".join(
        [
            *table(head, rows),
            "",
            f"{said(found, 'command', code=True)}, {said(found, 'date')}, {said(found, 'machine')}, seed 0, settings "
            f"as `--budget reduced` has them. Pairs judged: {counts}. Of 60 pairs an accuracy of 0.6 is uncertain by "
            f"0.12 either way (95 %). Kinds of preference: {kinds}. Fit and judge: minutes of the commands.",
        ]
    )


def said(found: Found, key: str, *, code: bool = False) -> str:
    """Return what the designs were measured by, on or with, each once."""
    return "; ".join(f"`{each}`" if code else each for each in dict.fromkeys(str(own[key]) for own in found.values()))


def matrix(kept: Found) -> str:
    """Return which judge of ARLISS ranks whose pairs rightly, as Markdown."""
    judged = kept["arliss"]["eval"]
    domains = list(judged["accuracy"])
    rows = [
        [f"judge of {name}", *(f"**{own[each]:.2f}**" if each == name else f"{own[each]:.2f}" for each in domains)]
        for name, own in judged["matrix"].items()
    ]
    return "\n".join(table(["accuracy on", *domains], rows))


TABLES: Mapping[str, Callable[[Found], str]] = {"rewards": designs, "matrix": matrix}
"""Mark in the page -> what stands there."""


def costs(each: Mapping[str, Any]) -> list[str]:
    """Return the router's accuracy, parameters and minutes of a design."""
    judged, routed = each["eval"], each["eval"]["router_accuracy"]
    return [
        "-" if routed is None else f"{routed:.3f}",
        f"{judged['parameters_resident'] / 1e6:.1f}",
        f"{judged['parameters_active'] / 1e6:.1f}",
        f"{each['fit_seconds'] / 60:.1f}",
        f"{each['eval_seconds'] / 60:.1f}",
    ]


def shares(values: Mapping[str, float | None], domains: Sequence[str]) -> list[str]:
    """Return accuracies by domain and their mean."""
    own = [values[each] for each in domains]
    known = [each for each in own if each is not None]
    told = ["-" if each is None else f"{each:.2f}" for each in own]
    return [*told, f"{mean(known):.3f}" if len(known) == len(own) else "-"]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
