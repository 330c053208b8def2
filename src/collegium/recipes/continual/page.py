"""The report of a stream: what each method kept, task by task, and who spoke on which."""

from collections.abc import Mapping
from typing import Any

from collegium.recipes.report import Report, render, share_map

COLUMNS = ("method", "average accuracy", "forgetting", "backward", "forward", "numbers", "rate", "seconds")


def continual_page(found: Mapping[str, Any]) -> str:
    """Return the page of `continual run` as one HTML file."""
    tasks = found["tasks"]
    best = max(found["methods"], key=lambda name: found["methods"][name]["average_accuracy"])
    return render(
        Report(
            title="Tasks one after another",
            summary=f"{len(found['methods'])} methods on {found['base']}: {', '.join(tasks)}; {len(found['orders'])} "
            f"orders, setup {found['setup']}.",
            facts={
                "Best": f"{best}, {found['methods'][best]['average_accuracy']:.3f} on average after all tasks",
                "Words alone": ", ".join(f"{name} {value:.2f}" for name, value in found["floor"]["words"].items()),
                "Commonest label": ", ".join(
                    f"{name} {value:.2f}" for name, value in found["floor"]["commonest"].items()
                ),
            },
            charts=[*_matrices(found), *_routings(found)],
            texts=[],
            tables=[("All methods", _EXPLAINED, COLUMNS, table_rows(found))],
            commands=[],
        )
    )


_EXPLAINED = (
    "Accuracy on all tasks after the last, the mean over orders. Forgetting: how much lower than at its best each "
    "earlier task ended. Backward transfer: how much higher than when it was learnt. Forward transfer: how much better "
    "each was learnt than by an adapter alone. A star: is told each text's task."
)


def table_rows(found: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """Return the main table's rows."""
    return [
        (
            f"{name}{'*' if each['told_the_task'] else ''}",
            f"{each['average_accuracy']:.3f}",
            f"{each['forgetting']:.3f}",
            f"{each['backward_transfer']:+.3f}",
            "-" if each["forward_transfer"] is None else f"{each['forward_transfer']:+.3f}",
            f"{each['parameters']:,}",
            f"{each['rate']:g}",
            f"{each['seconds']:.0f}",
        )
        for name, each in found["methods"].items()
    ]


def _matrices(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    order = found["orders"][0]
    charts = []
    for name, each in found["methods"].items():
        rows = {
            f"after {task}": {other: (row[place] if place < len(row) else None) for place, other in enumerate(order)}
            for task, row in zip(order, each["matrix"], strict=True)
        }
        charts.append(
            (
                f"{name}: what is known after each task",
                "Accuracy on each task (columns) after each was learnt (rows), in the first order.",
                share_map(rows, title="accuracy"),
            )
        )
    return charts


def _routings(found: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    charts = []
    for name, each in found["methods"].items():
        routing = each["orders"][0]["routing"]
        if routing and len(routing) > 1:
            charts.append(
                (
                    f"{name}: who speaks",
                    "For each task (rows) the mean weight of each adapter (columns), over test texts and blocks.",
                    share_map(routing, title="mean weight"),
                )
            )
    return charts
