"""From a kept learner to one that answers, or learns another task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from collegium.core.errors import ConfigError, DataError
from collegium.core.tables import nearest
from collegium.data.labelled import LabelledTask, LabelledText
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.common import Common
from collegium.recipes.opening import open_library
from collegium.recipes.reference import parse_reference
from collegium.tasks.continual import METHODS, Composition, Lesson, Scene
from collegium.tasks.continual.pool import pool_of
from collegium.tasks.continual.record import Learner, open_learner

EMPTY = torch.empty(0, dtype=torch.long)


@dataclass(frozen=True, eq=False)
class OpenedLearner:
    """A learner with its base and library, and the hashes of the rows that its members learnt from."""

    base: Base
    library: Library
    name: str
    learner: Learner
    learnt_from: frozenset[str]


def open_learner_reference(text: str, common: Common) -> OpenedLearner:
    """Return the learner that LIB#NAME names; raises ConfigError for a reference that names none."""
    reference = parse_reference(text)
    if reference.library is None or reference.member is None:
        raise ConfigError(f"a learner is named LIB#NAME, as `collegium continual run --as NAME` kept it; got {text!r}.")
    base, library = open_library(Path(reference.library), common)
    learner = open_learner(library, reference.member)
    hashes = frozenset(
        each for member in learner.members.values() for each in library.card(member).documents.get("train", ())
    )
    return OpenedLearner(base, library, reference.member, learner, hashes)


def judged_scene(opened: OpenedLearner, rows: Mapping[str, Sequence[LabelledText]]) -> Scene:
    """Return the scene in which a learner judges rows of tasks that it knows.

    Raises DataError for a task or a label that it does not know.
    """
    learner = opened.learner
    for task, own in rows.items():
        if task not in learner.tasks:
            raise DataError(f"{opened.name!r} has not learnt a task {task!r}. {nearest(task, learner.tasks)}")
        known = learner.labels[learner.tasks.index(task)]
        odd = sorted({row.label for row in own} - set(known))
        if odd:
            raise DataError(
                f"task {task!r} has rows of label {odd[0]!r}; {opened.name!r} has learnt {', '.join(known)}."
            )
    pool = pool_of(opened.base, [rows.get(task, ()) for task in learner.tasks], learner.config)
    lessons = tuple(
        Lesson(task, labels, EMPTY, EMPTY, (pool.tasks == number).nonzero().flatten())
        for number, (task, labels) in enumerate(zip(learner.tasks, learner.labels, strict=True))
    )
    return Scene(opened.base, learner.config, pool, lessons, learner.rate)


def composition_of(scene: Scene, learner: Learner) -> Composition:
    """Return how a kept learner's adapters speak."""
    seen = tuple(range(len(learner.tasks)))
    plain = METHODS[learner.method].compose(scene, seen, learner.knowledge)
    return replace(plain, scales=learner.scales, shifts=learner.shifts)


def unseen_rows(tasks: Sequence[LabelledTask], learnt_from: frozenset[str]) -> dict[str, list[LabelledText]]:
    """Return each task's rows that nobody learnt from, in the order of their hashes."""
    return {
        task.name: sorted(
            (row for row in (*task.train, *task.test) if row.hash not in learnt_from), key=lambda row: row.hash
        )
        for task in tasks
    }


def documents_of(tasks: Sequence[LabelledTask]) -> dict[str, list[str]]:
    """Return task -> the hashes of all rows that may be learnt from, used or not: what a card lists."""
    return {task.name: [row.hash for row in task.train] for task in tasks}
