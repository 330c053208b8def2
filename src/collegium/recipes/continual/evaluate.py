"""`continual eval`: a kept learner on rows that it has not learnt from."""

import time
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError, DataError
from collegium.data.labelled import read_labelled
from collegium.recipes.common import Common
from collegium.recipes.continual.kept import composition_of, judged_scene, open_learner_reference, unseen_rows
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch
from collegium.tasks.continual import accuracy_on

REDUCED_ROWS = 100
"""Rows a task under `--budget reduced`."""


@dataclass(frozen=True)
class ContinualEvalConfig:
    """Judge what was learnt from a stream: accuracy on each task, by rows that it has not learnt from."""

    tasks: Positional[Path]
    """A folder with one .jsonl of rows with text and label for each task, or one such file."""
    model: str = field(kw_only=True)
    """What was learnt: LIB#NAME."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: label=class."""
    budget: str = "reduced"
    """`reduced` (100 rows a task), `full`, or a number of rows."""
    dry_run: bool = False
    """Show what would be judged, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: ContinualEvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `continual eval --json`."""
    start = time.perf_counter()
    most = rows_of_budget(config.budget)
    opened = open_learner_reference(config.model, config.common)
    tasks = read_labelled(config.tasks, columns=config.columns or None)
    unseen = unseen_rows(tasks, opened.learnt_from)
    rows = {name: own[:most] for name, own in unseen.items() if own}
    if not rows:
        raise DataError(f"{opened.name!r} has learnt from every row of {config.tasks}; give rows that it has not seen.")
    scene = judged_scene(opened, rows)
    counts = {name: len(own) for name, own in rows.items()}
    if config.dry_run:
        for name, count in counts.items():
            watch.say(f"would judge {opened.name} by {count} of {len(unseen[name])} unseen rows of {name}")
        return make_card("continual eval", config, {"plan": {"rows": counts}}, time.perf_counter() - start)
    learner, seen = opened.learner, tuple(range(len(opened.learner.tasks)))
    composition = composition_of(scene, learner)
    accuracy = {
        lesson.name: round(accuracy_on(scene, seen, learner.knowledge, composition, rows=lesson.test), 6)
        for lesson in scene.lessons
        if len(lesson.test)
    }
    seconds = time.perf_counter() - start
    result = {
        "method": learner.method,
        "setup": learner.config.setup,
        "accuracy": accuracy,
        "average_accuracy": round(sum(accuracy.values()) / len(accuracy), 6),
        "rows": counts,
        "skipped": {task.name: len(task.train) + len(task.test) - len(unseen[task.name]) for task in tasks},
        "seconds": round(seconds, 3),
    }
    return make_card("continual eval", config, result, seconds)


def rows_of_budget(text: str) -> int | None:
    """Return a budget as rows a task, None = all.

    >>> rows_of_budget("reduced"), rows_of_budget("full"), rows_of_budget("250")
    (100, None, 250)
    """
    word = text.strip()
    if word in ("reduced", "full"):
        return REDUCED_ROWS if word == "reduced" else None
    if word.isascii() and word.isdigit() and 0 < int(word) < 10**9:
        return int(word)
    raise ConfigError(f"--budget is `reduced` ({REDUCED_ROWS} rows a task), `full` or a number of rows, got {text!r}.")
