"""`multitask fit / run / eval`: tasks learnt together."""

from collections.abc import Mapping
from typing import Any

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.multitask import evaluate, fit, run
from collegium.recipes.multitask.evaluate import MultitaskEvalConfig
from collegium.recipes.multitask.fit import MultitaskFitConfig
from collegium.recipes.multitask.page import accuracy_rows
from collegium.recipes.multitask.run import MultitaskRunConfig


def run_fit(config: MultitaskFitConfig, screen: Screen) -> Outcome:
    """Return what was learnt, a row for each task."""
    found = fit.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    show_tasks(found, {"before": found["before"], "after": found["after"], "task told": found["routed"]}, screen)
    screen.say("")
    show_weights(found, screen)
    stages = found["stages"]
    screen.say(
        f"second stage: {100 * stages['inter_share_of_parameters']:.1f} % of the parameters, "
        f"{100 * stages['inter_share_of_seconds']:.1f} % of the seconds"
    )
    screen.say(f"next: collegium generate '...' --model {found['library']}#{found['name']}")
    rows = [{"task": name, **_task_row(found, name)} for name in found["tasks"]]
    return Outcome(found, rows)


def run_run(config: MultitaskRunConfig, screen: Screen) -> Outcome:
    """Return the object of `multitask run --json`; its rows are methods."""
    found = run.run(config, watch=screen).result
    tasks = found["tasks"]
    costs = [*((row["parameters"], row["seconds"]) for row in found["methods"].values()), (None, None)]
    accuracies = accuracy_rows(found["methods"], found["floor"])
    screen.table(
        ("accuracy", *tasks, "average", "parameters", "seconds"),
        [(*row, *cost) for row, cost in zip(accuracies, costs, strict=True)],
    )
    screen.table(
        ("perplexity", *tasks),
        [(name, *row["perplexity"].values()) for name, row in found["methods"].items()],
    )
    if "weights" in found:
        show_weights(found, screen)
    return Outcome(found, [{"method": name, **row} for name, row in found["methods"].items()])


def run_eval(config: MultitaskEvalConfig, screen: Screen) -> Outcome:
    """Return the object of `multitask eval --json`; its rows are tasks."""
    found = evaluate.run(config, watch=screen).result
    columns = {"base": found["before"], "model": found} | ({"task told": found["routed"]} if "routed" in found else {})
    show_tasks(found, columns, screen)
    skipped = sum(found["skipped"].values())
    if skipped:
        screen.say(f"{skipped} rows were left out: the model was trained on them")
    rows = [{"task": name, **_columns_of(name, columns)} for name in found["accuracy"]]
    return Outcome(found, rows)


def show_tasks(found: Mapping[str, Any], columns: Mapping[str, Mapping[str, Any]], screen: Screen) -> None:
    """Show tasks with accuracy and perplexity in each column."""
    names = list(next(iter(columns.values()))["accuracy"])
    for what in ("accuracy", "perplexity"):
        cells = [(name, *(column[what][name] for column in columns.values())) for name in names]
        screen.table((what, *columns), cells)
    shares = found.get("routing_accuracy") or {}
    if shares:
        told = ", ".join(f"{name} {100 * share:.0f} %" for name, share in shares.items() if share is not None)
        screen.say(f"prompts taken to be of their own task: {told}")


def show_weights(found: Mapping[str, Any], screen: Screen) -> None:
    """Show how much weight each adapter has on each task."""
    screen.table(
        ("weight of adapters", *found["tasks"]), [(name, *row.values()) for name, row in found["weights"].items()]
    )


def _task_row(found: Mapping[str, Any], name: str) -> dict[str, Any]:
    columns = {"before": found["before"], "after": found["after"], "routed": found["routed"]}
    return _columns_of(name, columns)


def _columns_of(name: str, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    return {
        column: {"accuracy": each["accuracy"][name], "perplexity": each["perplexity"][name]}
        for column, each in columns.items()
    }


MULTITASK = Group(
    "Many tasks together: learn, compare, judge.",
    {
        "fit": Command(MultitaskFitConfig, run_fit, memory_flag="--batch", resumes=True),
        "run": Command(MultitaskRunConfig, run_run, memory_flag="--batch", resumes=True),
        "eval": Command(MultitaskEvalConfig, run_eval, memory_flag="--text-tokens"),
    },
)
