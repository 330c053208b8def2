"""`multitask run`: the ways to do many tasks, side by side on one backbone."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.tables import nearest
from collegium.recipes.common import Common
from collegium.recipes.multitask.common import bars, chosen_tasks, encoded, gates_of, resolve_settings
from collegium.recipes.multitask.page import run_page
from collegium.recipes.opening import DEFAULT_BASE, open_base
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.watch import Watch
from collegium.tasks.multitask import (
    METHODS,
    MultitaskConfig,
    Workshop,
    base_quality,
    judged,
)


@dataclass(frozen=True)
class MultitaskRunConfig:
    """Compare ways to do many tasks with one backbone: alter, one-stage, shared, separate, tamoe, moe."""

    tasks: Positional[Path]
    """A folder with one .jsonl per task: rows of text and label, or of prompt and completion."""
    methods: str = ",".join(METHODS)
    """Which, separated by commas."""
    model: str = DEFAULT_BASE
    """The base model: smollm2-135m, a folder, or hf:owner/name@revision."""
    order: tuple[str, ...] = ()
    """Only these tasks, in this order; default = all, by file name."""
    budget: str = "reduced"
    """`reduced` (the settings below as they are) or `full` (all rows of each task)."""
    out: Path | None = None
    """Where the report, the run's card and interrupted fits lie; default runs/multitask-run-HASH."""
    fit: OmitArgPrefixes[MultitaskConfig] = field(default_factory=MultitaskConfig)
    """Settings of adapters and gates, alike for every method."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: MultitaskRunConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `multitask run --json`."""
    start = time.perf_counter()
    names = methods_named(config.methods)
    tasks = chosen_tasks(config.tasks, config.order)
    settings = resolve_settings(config.fit, config.budget, config.common)
    base = open_base(config.model, config.common)
    lessons = encoded(base, tasks, settings, watch=watch)
    folder = make_folder(run_folder("multitask run", config, config.out))
    shop = Workshop(lessons, folder / "checkpoints", bars(watch))
    clock = time.perf_counter()
    rows: dict[str, Any] = {"base": {**base_quality(shop).to_json(), "parameters": 0, "seconds": 0.0}}
    watch.say(f"base: measured in {time.perf_counter() - clock:.0f} s")
    for name in names:
        learnt = METHODS[name].learn(shop)
        found = judged(shop, learnt)
        seconds = round(learnt.seconds, 3)
        rows[name] = {**found.to_json(), "parameters": learnt.parameters, "seconds": seconds}
        watch.say(f"{name}: {learnt.parameters:,} parameters, {learnt.seconds:.0f} s of training")
    result = {
        "tasks": list(lessons.names),
        "methods": rows,
        "floor": lessons.floor,
        **(gates_of(shop) if {"alter", "alter-routed"} & set(names) else {}),
        "rows": dict(zip(lessons.names, lessons.rows, strict=True)),
        "cut_prompts": lessons.cut,
        "seconds": round(time.perf_counter() - start, 3),
    }
    card = make_card("multitask run", config, result, time.perf_counter() - start)
    write_text(folder / "report.html", run_page(result))
    save_card(card, folder)
    watch.say(f"report: {folder / 'report.html'}")
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    return card


def methods_named(text: str) -> tuple[str, ...]:
    """Return methods as they are written, separated by commas; raises ConfigError for one there is not.

    >>> methods_named("alter, shared")
    ('alter', 'shared')
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"there is no method {name!r}. {nearest(name, METHODS)}")
    if not names or len(set(names)) != len(names):
        raise ConfigError(f"--methods names each method once, got {text!r}. Known: {', '.join(METHODS)}.")
    return names
