"""`lm-eval`: lm-evaluation-harness's own command, with our model class, and a table of every expert."""

import contextlib
from collections.abc import Mapping
from typing import Any

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import harness
from collegium.recipes.harness import LmEvalConfig


def run_lm_eval(config: LmEvalConfig, screen: Screen) -> Outcome:
    """Return what lm_eval found; its rows are numbers, with `--each` of every voice."""
    with contextlib.redirect_stdout(screen.console.file):  # standard output may belong to a program
        found = harness.run(config, watch=screen).result
    if not config.each:
        return Outcome(found, _rows(found.get("model", ""), found.get("results", {})))
    voices = {"base": found["base"], **found["experts"], f"composed ({found['composition']})": found["composed"]}
    show_voices(voices, screen)
    return Outcome(found, [row for voice, results in voices.items() for row in _rows(voice, results)])


def show_voices(voices: Mapping[str, Mapping[str, Any]], screen: Screen) -> None:
    """Show a row for each voice, a column for each metric of each task."""
    columns = [(task, metric) for task, row in voices["base"].items() for metric in row]
    cells = [
        [name, *(results.get(task, {}).get(metric, {}).get("value") for task, metric in columns)]
        for name, results in voices.items()
    ]
    screen.table(("model", *(f"{task} {metric}" for task, metric in columns)), cells)


def _rows(voice: str, results: Mapping[str, Any]) -> list[dict[str, Any]]:
    return [
        {"model": voice, "task": task, "metric": metric, **number}
        for task, row in results.items()
        for metric, number in row.items()
    ]


LM_EVAL = Command(LmEvalConfig, run_lm_eval, memory_flag="--batch_size", relays=True)
