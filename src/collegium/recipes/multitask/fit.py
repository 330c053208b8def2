"""`multitask fit`: one expert of many tasks, an adapter each with gates over them, kept in a library."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.errors import NameTaken
from collegium.core.files import write_text
from collegium.core.names import check_name
from collegium.library import Library
from collegium.recipes.common import Common
from collegium.recipes.multitask.common import bars, chosen_tasks, encoded, gates_of, resolve_settings, sources_of
from collegium.recipes.multitask.page import fit_page
from collegium.recipes.multitask.plan import make_multitask_plan
from collegium.recipes.opening import DEFAULT_BASE, kept_reference, open_base
from collegium.recipes.reference import is_library
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.watch import Watch
from collegium.tasks.multitask import (
    METHODS,
    MultitaskConfig,
    Workshop,
    base_quality,
    curves_of,
    judged,
    task_expert,
)


@dataclass(frozen=True)
class MultitaskFitConfig:
    """Learn many tasks together: an adapter each, then gates that know the task; one expert is kept in a library."""

    tasks: Positional[Path]
    """A folder with one .jsonl per task: rows of text and label, or of prompt and completion."""
    library: Path = field(kw_only=True)
    """Where the expert goes; made when it is not there."""
    name: Annotated[str, arg(name="as")] = field(kw_only=True)
    """What the expert is called in the library."""
    base: str = DEFAULT_BASE
    """The base model: smollm2-135m, a folder, or hf:owner/name@revision."""
    order: tuple[str, ...] = ()
    """Only these tasks, in this order; default = all, by file name."""
    budget: str = "reduced"
    """`reduced` (the settings below as they are) or `full` (all rows of each task)."""
    out: Path | None = None
    """Where the report and interrupted fits lie; default runs/multitask-fit-HASH."""
    dry_run: bool = False
    """Measure and show what would be done, then stop."""
    fit: OmitArgPrefixes[MultitaskConfig] = field(default_factory=MultitaskConfig)
    """Settings of adapters and gates."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: MultitaskFitConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: each task before and after, what gates say, what the second stage costs."""
    start = time.perf_counter()
    check_name(config.name)
    tasks = chosen_tasks(config.tasks, config.order)
    settings = resolve_settings(config.fit, config.budget, config.common)
    base = open_base(config.base, config.common)
    if is_library(str(config.library)):
        check_free(Library(config.library, base=base, read_only=True), config.name)
    lessons = encoded(base, tasks, settings, watch=watch)
    if config.dry_run:
        plan = make_multitask_plan(lessons)
        for line in plan.lines():
            watch.say(line)
        return make_card("multitask fit", config, {"plan": plan.to_json()}, time.perf_counter() - start)
    folder = make_folder(run_folder("multitask fit", config, config.out))
    library = Library(config.library, base=base, base_reference=kept_reference(config.base))
    shop = Workshop(lessons, folder / "checkpoints", bars(watch))
    expert = task_expert(shop, config.name, sources=sources_of(config.tasks, tasks))
    found = report_of(shop, watch=watch)
    library.add(expert, measured=curves_of(shop))
    library.measure(config.name, {"kind": "multitask", **found})
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for warning in expert.card.warnings:
        watch.say(warning)
    seconds = time.perf_counter() - start
    watch.say(f"fitted {config.name} ({', '.join(lessons.names)}) in {seconds:.0f} s")
    result = {
        "name": config.name,
        "library": str(config.library),
        "tasks": list(lessons.names),
        **found,
        "parameters": expert.card.trained_parameters,
        "seconds": round(seconds, 3),
    }
    write_text(folder / "report.html", fit_page(result))
    watch.say(f"report: {folder / 'report.html'}")
    return make_card("multitask fit", config, result, seconds)


def check_free(library: Library, name: str) -> None:
    """Raise NameTaken when the library has something of this name already."""
    if name in library or name in library.model_names() or name in library.router_names():
        raise NameTaken(
            f"the library has something called {name!r} already; take another --as, or `collegium library remove "
            f"{name}`."
        )


def report_of(shop: Workshop, *, watch: Watch) -> dict[str, Any]:
    """Return each task before and after with the task given and told from the prompt, and what gates say."""
    lessons = shop.lessons
    update = watch.begin("measuring", 3)
    before = base_quality(shop)
    update(1)
    after = judged(shop, METHODS["alter"].learn(shop))
    update(2)
    routed = judged(shop, METHODS["alter-routed"].learn(shop))
    update(3)
    return {
        "before": before.to_json(),
        "after": after.to_json(),
        "routed": routed.to_json(),
        **gates_of(shop),
        "floor": lessons.floor,
        "rows": dict(zip(lessons.names, lessons.rows, strict=True)),
        "cut_prompts": lessons.cut,
    }
