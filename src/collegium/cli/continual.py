"""`continual run / eval / add`: tasks one after another."""

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.continual import add, evaluate, run
from collegium.recipes.continual.add import ContinualAddConfig
from collegium.recipes.continual.evaluate import ContinualEvalConfig
from collegium.recipes.continual.page import COLUMNS, table_rows
from collegium.recipes.continual.run import ContinualRunConfig


def run_stream(config: ContinualRunConfig, screen: Screen) -> Outcome:
    """Return the object of `continual run --json`; its rows are methods."""
    found = run.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    screen.table(COLUMNS, table_rows(found))
    for what, floor in found["floor"].items():
        screen.say(f"{what} alone: " + ", ".join(f"{task} {value:.3f}" for task, value in floor.items()))
    return Outcome(found, [{"method": name, **each} for name, each in found["methods"].items()])


def run_eval(config: ContinualEvalConfig, screen: Screen) -> Outcome:
    """Return the object of `continual eval --json`; its rows are tasks."""
    found = evaluate.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows = [{"task": task, "accuracy": value, "rows": found["rows"][task]} for task, value in found["accuracy"].items()]
    screen.table(("task", "accuracy", "rows"), [(row["task"], f"{row['accuracy']:.3f}", row["rows"]) for row in rows])
    return Outcome(found, rows)


def run_add(config: ContinualAddConfig, screen: Screen) -> Outcome:
    """Return what was learnt, and which members changed."""
    found = add.run(config, watch=screen).result
    return Outcome(found, [{"task": task, "accuracy": value} for task, value in found.get("accuracy", {}).items()])


CONTINUAL = Group(
    "Tasks one after another: learn each without losing the others.",
    {
        "run": Command(ContinualRunConfig, run_stream, memory_flag="--batch", resumes=True),
        "add": Command(ContinualAddConfig, run_add, memory_flag="--threads", resumes=True),
        "eval": Command(ContinualEvalConfig, run_eval, memory_flag="--threads"),
    },
)
