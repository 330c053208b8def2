"""`continual add`: more tasks for a kept learner; of what it learnt before only its memory is read again."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError, NameTaken
from collegium.data.labelled import LabelledTask, read_labelled
from collegium.library import Library
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.continual.kept import (
    EMPTY,
    OpenedLearner,
    composition_of,
    documents_of,
    open_learner_reference,
)
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.watch import Watch
from collegium.rewards.texts import TextBatch
from collegium.tasks.continual import METHODS, Lesson, Scene, Stage, accuracy_on, learn_next, make_pool
from collegium.tasks.continual.pool import new_pool
from collegium.tasks.continual.record import keep_learner, learner_of


@dataclass(frozen=True)
class ContinualAddConfig:
    """Learn more tasks with what was kept: a new adapter for each, routers anew from the memory; others stay."""

    tasks: Positional[Path]
    """A folder with one .jsonl of rows with text and label for each new task, or one such file."""
    model: str = field(kw_only=True)
    """What learns them: LIB#NAME."""
    order: tuple[str, ...] = ()
    """The new tasks in the order in which they are learnt; none named = by file name."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: label=class."""
    out: Path | None = None
    """Where interrupted fits lie; default runs/continual-add-HASH."""
    dry_run: bool = False
    """Show what would be done, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: ContinualAddConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: accuracy on the new tasks, seconds, and which members changed.

    Raises NameTaken for a task that is known, ConfigError for a learner that needs all rows of all tasks.
    """
    start = time.perf_counter()
    opened = open_learner_reference(config.model, config.common)
    learner = opened.learner
    tasks = read_labelled(config.tasks, columns=config.columns or None, order=config.order)
    known = sorted({task.name for task in tasks} & set(learner.tasks))
    if known:
        raise NameTaken(f"{opened.name!r} has learnt a task {known[0]!r} already; give the new one another name.")
    if learner.method == "joint":
        raise ConfigError("joint learns all tasks together from all their rows; run it again with the new ones.")
    if config.dry_run:
        plan = {"tasks": [task.name for task in tasks], "after": list(learner.tasks)}
        watch.say(f"would learn {', '.join(plan['tasks'])} after {', '.join(learner.tasks)}, by {learner.method}")
        return make_card("continual add", config, {"plan": plan}, time.perf_counter() - start)
    folder = make_folder(run_folder("continual add", config, config.out))
    scene = replace(
        scene_of(opened, tasks),
        folder=folder / "steps",
        begin=lambda label, steps: StepBar(watch.begin(label, steps)),
    )
    seen = tuple(range(len(learner.tasks)))
    stage = Stage(seen, learner.knowledge, composition_of(scene, learner))
    for number in range(len(seen), len(scene.lessons)):
        stage = learn_next(scene, METHODS[learner.method], number, stage)
    library = Library(opened.library.path, base=opened.base)
    before = {member: library[member].digest for member in learner.members.values()}
    documents = {**_listed(opened), **documents_of(tasks)}
    keep_learner(
        library, opened.base, learner_of(scene, stage, method=learner.method), opened.name, documents=documents
    )
    accuracy = {
        lesson.name: round(accuracy_on(scene, stage.seen, stage.knowledge, stage.composition, rows=lesson.test), 6)
        for lesson in scene.lessons[len(seen) :]
    }
    seconds = time.perf_counter() - start
    moved = [each for each, digest in before.items() if each not in library or library[each].digest != digest]
    watch.say(
        f"{opened.name} has learnt {', '.join(accuracy)} in {seconds:.0f} s; "
        + (f"changed: {', '.join(moved)}" if moved else "every earlier member is what it was, to the last bit")
    )
    result = {
        "method": learner.method,
        "tasks": [lesson.name for lesson in scene.lessons],
        "accuracy": accuracy,
        "changed": moved,
        "unchanged": [each for each in before if each not in moved],
        "seconds": round(seconds, 3),
    }
    return make_card("continual add", config, result, seconds)


def scene_of(opened: OpenedLearner, tasks: tuple[LabelledTask, ...]) -> Scene:
    """Return the scene in which a learner learns new tasks: its memory, and behind it their rows."""
    learner, base = opened.learner, opened.base
    new, lessons = make_pool(base, tasks, learner.config)
    old, count, first = learner.memory, len(learner.memory.labels), len(learner.tasks)
    kept = torch.arange(count)
    width = max(int(old.texts.tokens.shape[1]), int(new.texts.tokens.shape[1]))
    tokens = [_wide(each, width) for each in (old.texts.tokens[kept], new.texts.tokens)]
    lengths = torch.cat([old.texts.lengths[kept], new.texts.lengths])
    pool = new_pool(
        base,
        TextBatch(torch.cat(tokens), lengths, lengths),
        torch.cat([old.tasks, new.tasks + first]),
        (*old.labels, *new.labels),
        learner.config,
    )
    remembered = tuple(
        Lesson(task, labels, (old.tasks == number).nonzero().flatten(), EMPTY, EMPTY)
        for number, (task, labels) in enumerate(zip(learner.tasks, learner.labels, strict=True))
    )
    moved = tuple(
        replace(each, train=each.train + count, dev=each.dev + count, test=each.test + count) for each in lessons
    )
    return Scene(base, learner.config, pool, (*remembered, *moved), learner.rate)


def _wide(tokens: torch.Tensor, width: int) -> torch.Tensor:
    return torch.nn.functional.pad(tokens, (0, width - tokens.shape[1]))


def _listed(opened: OpenedLearner) -> dict[str, list[str]]:
    """Return task -> the hashes of the rows that the members' cards list; of an adapter for all tasks, under each."""
    found = {}
    for adapter, member in opened.learner.members.items():
        listed = list(opened.library.card(member).documents.get("train", ()))
        for task in (adapter,) if adapter in opened.learner.tasks else opened.learner.tasks[:1]:
            found[task] = listed
    return found
