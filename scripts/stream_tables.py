"""The tables of docs/continual.md, from what bench/continual/compare.py wrote."""

from collections.abc import Mapping, Sequence
from statistics import mean, stdev
from typing import Any

from reward_tables import table

Card = Mapping[str, Any]
HEAD = ["method", "average accuracy", "forgetting", "backward", "forward", "million numbers", "rates", "minutes"]


def streams(cards: Sequence[Card]) -> str:
    """Return all methods with their means over seeds and orders, what words alone reach, and what it was run by."""
    results = [card["result"] for card in cards]
    first, last = results[0], cards[-1]
    names = sorted(first["methods"], key=lambda name: -_mean_of(results, name, "average_accuracy"))
    rows = [_row(name, [result["methods"][name] for result in results]) for name in names]
    orders, minutes = len(first["orders"]), sum(card["seconds"] for card in cards) / 60
    floor = ", ".join(f"{name} {value:.2f}" for name, value in first["floor"]["words"].items())
    commonest = ", ".join(f"{name} {value:.2f}" for name, value in first["floor"]["commonest"].items())
    spread = "one deviation over seeds and orders behind it" if len(cards) * orders > 2 else "the mean of two orders"
    return "\n".join(
        [
            *table(HEAD, rows),
            "",
            f"`python bench/continual/compare.py {first['base']}`, {last['date']}, {last['machine']}; {minutes:.0f} "
            f"minutes in all. Seeds {', '.join(str(card['config']['common']['seed']) for card in cards)}, {orders} "
            f"orders each, setup {first['setup']}. Average accuracy: {spread}. A star is told the task.",
            "",
            f"Words alone (tf-idf, logistic regression, the same rows): {floor}; the commonest label: {commonest}.",
        ]
    )


def _row(name: str, found: Sequence[Mapping[str, Any]]) -> list[str]:
    every = [order for each in found for order in each["orders"]]
    accuracies = [order["average_accuracy"] for order in every]
    spread = f" ± {stdev(accuracies):.3f}" if len(accuracies) > 2 else ""
    forward = [each["forward_transfer"] for each in found]
    return [
        f"`{name}`{'*' if found[0]['told_the_task'] else ''}",
        f"{mean(accuracies):.3f}{spread}",
        f"{mean(order['forgetting'] for order in every):.3f}",
        f"{mean(order['backward_transfer'] for order in every):+.3f}",
        "-" if None in forward else f"{mean(forward):+.3f}",
        f"{found[0]['parameters'] / 1e6:.2f}",
        " ".join(f"{rate:g}" for rate in sorted({each["rate"] for each in found})),
        f"{sum(each['seconds'] for each in found) / 60:.1f}",
    ]


def _mean_of(results: Sequence[Mapping[str, Any]], name: str, metric: str) -> float:
    return mean(result["methods"][name][metric] for result in results)
