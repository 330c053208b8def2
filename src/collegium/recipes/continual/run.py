"""`continual run`: methods that learn tasks one after another, side by side on one stream in several orders."""

import random
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.names import check_name
from collegium.data.labelled import LabelledTask, read_labelled
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.continual.kept import documents_of
from collegium.recipes.continual.page import continual_page
from collegium.recipes.continual.stages import Course, StreamResult, chosen_rate, run_stream
from collegium.recipes.opening import kept_reference, open_base
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.watch import Watch
from collegium.tasks.continual import (
    METHODS,
    ContinualConfig,
    Lesson,
    Method,
    Stage,
    chosen_methods,
    floors,
    make_pool,
    stream_metrics,
)
from collegium.tasks.continual.pool import split_rows
from collegium.tasks.continual.record import keep_learner, learner_of

MAIN = (
    "l2r",
    "l2r-merge",
    "sequential",
    "replay",
    "ewc",
    "lwf",
    "olora",
    "epi",
    "mocl",
    "centroid",
    "uniform",
    "arrow",
    "oracle",
    "joint",
)
"""The methods of the main table, beside a row of SAPT and, where texts' tasks are told, ProgPrompt."""


@dataclass(frozen=True)
class ContinualRunConfig:
    """Learn a stream of labelled tasks by several methods: accuracy after each task, forgetting, transfer."""

    tasks: Positional[Path]
    """A folder with one .jsonl of rows with text and label for each task; NAME.test.jsonl is its test part."""
    model: str = "minilm-l6"
    """The base: minilm-l6 (a head a task), smollm2-135m (label words), a folder, or hf:owner/name@revision."""
    methods: tuple[str, ...] = ()
    """Which methods, separated by commas; none named = the main table."""
    order: tuple[str, ...] = ()
    """The tasks in the first order; none named = by file name. Later orders are drawn."""
    orders: int = 2
    """In how many orders the tasks come."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: label=class."""
    budget: str = "reduced"
    """`reduced` (the settings below as they are) or `full` (all rows)."""
    library: Path | None = None
    """Where what the first method learnt in the first order is kept; made when it is not there."""
    name: Annotated[str, arg(name="as")] = ""
    """What it is called there."""
    out: Path | None = None
    """Where the report and resumable steps lie; default runs/continual-run-HASH."""
    dry_run: bool = False
    """Show what would be done, then stop."""
    fit: OmitArgPrefixes[ContinualConfig] = field(default_factory=ContinualConfig)
    """Settings of all methods."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: ContinualRunConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `continual run --json`."""
    start = time.perf_counter()
    settings = resolve_settings(config)
    check_keeping(config)
    tasks = read_labelled(config.tasks, columns=config.columns or None, order=config.order)
    base = open_base(config.model, config.common)
    methods = chosen_methods(split_names(config.methods) or main_methods(base, settings), settings.setup)
    pool, lessons = make_pool(base, tasks, settings)
    orders = drawn_orders(len(lessons), config.orders, settings.seed)
    if config.dry_run:
        plan = planned(base, lessons, methods, orders, settings)
        for line in plan["lines"]:
            watch.say(line)
        return make_card("continual run", config, {"plan": plan}, time.perf_counter() - start)
    folder = make_folder(run_folder("continual run", config, config.out))
    course = Course(
        base,
        settings,
        pool,
        lessons,
        folder,
        begin=lambda label, steps: StepBar(watch.begin(label, steps)),
    )
    found: dict[str, Any] = {}
    kept: dict[str, tuple[Stage, float]] = {}
    for name, method in methods.items():
        began = time.perf_counter()
        rate, tried = chosen_rate(course, name, method, orders[0])
        streams = [run_stream(course, name, method, order=order, rate=rate) for order in orders]
        kept[name] = streams[0].last, rate
        found[name] = told_of(method, streams, rate=rate, tried=tried)
        watch.say(f"{name}: {found[name]['average_accuracy']:.3f} after all tasks, rate {rate:g}, "
                  f"{time.perf_counter() - began:.0f} s")  # fmt: skip
    add_forward_transfer(found)
    if config.library is not None:
        keep_first(config, course, tasks, next(iter(kept.items())), watch=watch)
    seconds = time.perf_counter() - start
    result = {
        "setup": settings.setup,
        "base": base.name,
        "tasks": [lesson.name for lesson in lessons],
        "orders": [[lessons[task].name for task in order] for order in orders],
        "methods": found,
        "floor": floor_of(course, tasks),
        "seconds": round(seconds, 3),
    }
    card = make_card("continual run", config, result, seconds)
    write_text(folder / "report.html", continual_page(result))
    save_card(card, folder)
    watch.say(f"report: {folder / 'report.html'}")
    return card


def told_of(
    method: Method, streams: list[StreamResult], *, rate: float, tried: dict[str, float | None]
) -> dict[str, Any]:
    """Return what is said of a method: means over the orders, and each order by itself."""
    metrics = [stream_metrics(each.matrix) for each in streams]

    def mean(values: list[float]) -> float:
        return round(sum(values) / len(values), 6)

    return {
        "average_accuracy": mean([each.average_accuracy for each in metrics]),
        "forgetting": mean([each.forgetting for each in metrics]),
        "backward_transfer": mean([each.backward_transfer for each in metrics]),
        "forward_transfer": None,
        "matrix": [list(row) for row in streams[0].matrix],
        "parameters": streams[0].parameters,
        "rate": rate,
        "rates_tried": tried,
        "seconds": round(sum(each.seconds for each in streams), 3),
        "told_the_task": method.told,
        "orders": [
            {"matrix": [list(row) for row in each.matrix], "routing": each.routing, **asdict(own)}
            for each, own in zip(streams, metrics, strict=True)
        ],
    }


def add_forward_transfer(found: dict[str, Any]) -> None:
    """Fill in how much better each task was learnt than by its adapter alone, where the oracle says what that is."""
    if "oracle" not in found:
        return
    for each in found.values():
        every = [
            stream_metrics(tuple(map(tuple, own["matrix"])), [row[-1] for row in alone["matrix"]]).forward_transfer
            or 0.0
            for own, alone in zip(each["orders"], found["oracle"]["orders"], strict=True)
        ]
        each["forward_transfer"] = round(sum(every) / len(every), 6)


def resolve_settings(config: ContinualRunConfig) -> ContinualConfig:
    """Return the settings with seed, threads and budget filled in."""
    settings = replace(config.fit, seed=config.common.seed, threads=config.common.apply_threads())
    if config.orders < 1:
        raise ConfigError(f"--orders is at least 1, got {config.orders}.")
    if config.budget == "full":
        return replace(settings, train_rows=0, test_rows=0)
    if config.budget != "reduced":
        raise ConfigError(
            f"--budget of a stream is `reduced` or `full`, got {config.budget!r}; --train-rows and --passes say the "
            "rest."
        )
    return settings


def check_keeping(config: ContinualRunConfig) -> None:
    """Raise ConfigError unless --library and --as come together."""
    if (config.library is None) != (not config.name):
        raise ConfigError("--library and --as go together: where what was learnt is kept, and under which name.")
    if config.name:
        check_name(config.name, what="model")


def keep_first(
    config: ContinualRunConfig,
    course: Course,
    tasks: tuple[LabelledTask, ...],
    learnt: tuple[str, tuple[Stage, float]],
    *,
    watch: Watch,
) -> None:
    """Keep what a method learnt in the first order."""
    assert config.library is not None
    method, (stage, rate) = learnt
    library = Library(config.library, base=course.base, base_reference=kept_reference(config.model))
    learner = learner_of(course.scene(rate), stage, method=method)
    keep_learner(library, course.base, learner, config.name, documents=documents_of(tasks))
    watch.say(f"kept {method} as {config.library}#{config.name}")


def split_names(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names given one by one or with commas between them.

    >>> split_names(("l2r,epi", "joint"))
    ('l2r', 'epi', 'joint')
    """
    return tuple(each.strip() for name in names for each in name.split(",") if each.strip())


def main_methods(base: Base, settings: ContinualConfig) -> tuple[str, ...]:
    """Return the methods of the main table that this base and setup have."""
    shared = "sapt" if base.speaks else "sapt-real"
    told = ("progprompt",) if settings.setup == "task" else ()
    kinds = () if settings.kind == "lora" else ("olora", "arrow")
    return tuple(name for name in METHODS if name in {*MAIN, shared, *told} - {*kinds})


def drawn_orders(tasks: int, count: int, seed: int) -> tuple[tuple[int, ...], ...]:
    """Return orders of tasks: as they are given, then others, each once as long as there are any.

    >>> drawn_orders(2, 3, seed=0)
    ((0, 1), (1, 0))
    """
    draw, found = random.Random(f"orders {seed}"), [tuple(range(tasks))]
    for _ in range(100 * count):
        if len(found) == count:
            break
        order = tuple(draw.sample(range(tasks), tasks))
        if order not in found:
            found.append(order)
    return tuple(found)


def planned(
    base: Base,
    lessons: tuple[Lesson, ...],
    methods: dict[str, Method],
    orders: tuple[tuple[int, ...], ...],
    settings: ContinualConfig,
) -> dict[str, Any]:
    """Return what would be done, as plain values and as lines."""
    fits = {"alone": len(lessons) * len(settings.rates)}
    for name, method in methods.items():
        if not method.isolated:
            fits[name] = 2 * len(settings.rates) + len(lessons) * len(orders)
    rows = {lesson.name: [len(part) for part in (lesson.train, lesson.dev, lesson.test)] for lesson in lessons}
    lines = [f"{name}: {train} rows to learn from, {dev} to choose by, {test} to judge by"
             for name, (train, dev, test) in rows.items()]  # fmt: skip
    lines.append(
        f"{len(methods)} methods on {base.name} in {len(orders)} orders (--setup {settings.setup}): "
        f"{sum(fits.values())} fits of a task at most"
    )
    return {"rows": rows, "fits": fits, "methods": list(methods), "orders": [list(each) for each in orders],
            "lines": lines}  # fmt: skip


def floor_of(course: Course, tasks: tuple[LabelledTask, ...]) -> dict[str, dict[str, float]]:
    """Return the floors on the same rows."""
    texts = {}
    for task in tasks:
        train, _, test = split_rows(task, course.config)
        texts[task.name] = [row.text for row in train], [row.text for row in test]
    return floors(course.scene(course.config.rates[0]), texts)
