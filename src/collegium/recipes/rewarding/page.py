"""The report of a reward model: accuracy by judge and route, where prompts go, what it costs."""

from collections.abc import Mapping
from typing import Any

from collegium.recipes.report import Report, number_text, render, share_map


def reward_page(name: str, found: Mapping[str, Any]) -> str:
    """Return the page of `reward eval` as one HTML file."""
    domains = list(found["accuracy"])
    rows = accuracy_rows(found)
    charts = [
        (
            "Who judges what rightly",
            "The share of pairs of each domain (columns) in which the better answer gets the higher reward; a coin has "
            "0.5. A judge is named after the domain it was fitted on.",
            share_map({label: dict(zip(domains, row, strict=True)) for label, row in rows.items()}, title="accuracy"),
        )
    ]
    if found["confusion"]:
        judges = list(dict.fromkeys([*found["matrix"], "abstained"]))
        shares = {
            domain: {judge: counts.get(judge, 0) / max(1, sum(counts.values())) for judge in judges}
            for domain, counts in found["confusion"].items()
        }
        charts.append(
            (
                "Where the router sends prompts",
                "For each domain (rows) the share of prompts that went to each judge (columns), or to the mean of all.",
                share_map(shares, title="share of prompts"),
            )
        )
    return render(
        Report(
            title=f"Reward model {name}",
            summary=f"Design {found['design']}; judged on {sum(found['pairs'].values())} pairs of prompts that no "
            "member was fitted on.",
            facts=facts_of(found),
            charts=charts,
            texts=[],
            tables=[domain_table(found)],
            commands=[f"collegium reward score rows.jsonl --model LIB#{name} --jsonl"],
        )
    )


def accuracy_rows(found: Mapping[str, Any]) -> dict[str, list[float | None]]:
    """Return label -> accuracy by domain: the floor, each judge, each route that there is."""
    domains = list(found["accuracy"])
    rows: dict[str, list[float | None]] = {"words alone": [found["floor"][each] for each in domains]}
    if len(found["matrix"]) > 1:
        rows |= {f"judge {judge}": [own[each] for each in domains] for judge, own in found["matrix"].items()}
    for route, own in found["routes"].items():
        if any(value is not None for value in own.values()):
            rows[route if len(found["matrix"]) > 1 else "the model"] = [own[each] for each in domains]
    return rows


def facts_of(found: Mapping[str, Any]) -> dict[str, str]:
    """Return the sentences at the top."""
    known = [value for value in found["accuracy"].values() if value is not None]
    facts = {"Accuracy": f"{sum(known) / len(known):.3f} on average over {len(known)} domains"} if known else {}
    if found["router_accuracy"] is not None:
        facts["Router"] = (
            f"{100 * found['router_accuracy']:.1f} % of prompts go to their own domain's judge, "
            f"{100 * (found['abstained'] or 0):.1f} % to the mean of all; calibration error {found['ece']:.3f}"
        )
    facts["Parameters"] = (
        f"{found['parameters_resident'] / 1e6:.2f} million in memory, {found['parameters_active'] / 1e6:.2f} million "
        "read a text"
    )
    return facts


def domain_table(found: Mapping[str, Any]) -> tuple[str, str, tuple[str, ...], list[tuple[Any, ...]]]:
    """Return heading, explanation, columns and rows of the table by domain."""
    rows = [
        (
            name,
            found["kinds"].get(name) or "-",
            found["pairs"][name],
            number_text(found["accuracy"][name]),
            number_text(found["length_matched"][name]),
            number_text(found["floor"][name]),
            found["skipped"][name],
            found["cut_texts"][name],
        )
        for name in found["accuracy"]
    ]
    columns = ("domain", "kind", "pairs", "accuracy", "length matched", "words alone", "seen, left out", "texts cut")
    said = (
        "Length matched: pairs whose answers' lengths differ by at most a tenth. Words alone: tf-idf and logistic "
        "regression."
    )
    return "By domain", said, columns, rows
