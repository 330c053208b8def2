"""What the commands of many tasks share: reading tasks, resolving settings, encoding for a base."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from collegium.core.cards import Source
from collegium.core.errors import ConfigError
from collegium.data.reading import SOURCES_FILE, read_sources
from collegium.data.text_tasks import TextTask, read_tasks
from collegium.models import Base
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.watch import Watch
from collegium.rewards.more import attached_as
from collegium.tasks.multitask import (
    METHODS,
    Lessons,
    MultitaskConfig,
    Workshop,
    alpha_matrix,
    lessons_of,
    stage_shares,
    task_accuracy,
)
from collegium.tasks.multitask.lessons import check_names
from collegium.train import Logger


def chosen_tasks(place: Path, order: Sequence[str]) -> tuple[TextTask, ...]:
    """Return the tasks of a folder, or those asked for; raises ConfigError for fewer than two."""
    tasks = read_tasks(place, order=order)
    check_names(tuple(task.name for task in tasks))
    return tasks


def sources_of(place: Path, tasks: Sequence[TextTask]) -> tuple[Source, ...]:
    """Return where tasks come from, as their folder says."""
    known = read_sources(place / SOURCES_FILE) if place.is_dir() else {}
    return tuple(dict.fromkeys(source for task in tasks for source in known.get(task.name, ())))


def resolve_settings(settings: MultitaskConfig, budget: str, common: Common) -> MultitaskConfig:
    """Return the settings with seed, threads and budget filled in."""
    settings = replace(settings, seed=common.seed, threads=common.apply_threads())
    if budget == "full":
        return replace(settings, train_rows=0, test_rows=0)
    if budget != "reduced":
        raise ConfigError(
            f"--budget of many tasks is `reduced` or `full`, got {budget!r}; --train-rows and --passes say the rest."
        )
    return settings


def encoded(base: Base, tasks: Sequence[TextTask], settings: MultitaskConfig, *, watch: Watch) -> Lessons:
    """Return tasks encoded for a base, saying whose prompts did not fit whole."""
    lessons = lessons_of(base, tasks, settings)
    for name, count in lessons.cut.items():
        if count:
            watch.say(f"{name}: {count} prompts are longer than {settings.text_tokens} tokens and keep their last")
    return lessons


def bars(watch: Watch) -> Callable[[str, int], Logger]:
    """Return what begins a bar for each fit."""
    return lambda label, steps: StepBar(watch.begin(f"fitting {label}", steps))


def gates_of(shop: Workshop) -> dict[str, Any]:
    """Return what the gates of alter say, how often prompts' tasks are told, and what the second stage costs.

    weights: of each task's test texts, the mean weight of each adapter over tokens and layers; a row sums to one but
    for rounding.
    """
    lessons, learnt = shop.lessons, METHODS["alter"].learn(shop)
    with attached_as(lessons.base, learnt.adapters):
        shares = alpha_matrix(lessons, learnt.plan).tolist()
    return {
        "weights": {
            task: {name: round(share, 4) for name, share in zip(lessons.names, row, strict=True)}
            for task, row in zip(lessons.names, shares, strict=True)
        },
        "routing_accuracy": task_accuracy(lessons, shop.router()),
        "stages": stage_shares(shop),
    }
