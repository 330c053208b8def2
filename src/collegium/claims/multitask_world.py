"""Made-up tasks to be learnt together, of known overlap, and a PicoLlama that has read their texts without answers."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from collegium.core.randomness import derive_seed
from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.data.text_tasks import TextTask, asked_for_labels
from collegium.models import Base
from collegium.tasks.multitask import Lessons, MultitaskConfig, lessons_of
from collegium.testing.pico import train_pico

CONFIG = MultitaskConfig(text_tokens=96, train_rows=0, test_rows=0, passes=12.0, layers="all", threads=1)
RATE_SEED = 99
"""The one seed on which learning rates are chosen; no claim uses it."""


@dataclass(frozen=True)
class TaskSettings:
    """What the toy tasks are.

    domains: families of the tasks of each domain, which are learnt together; rows: to learn from and choose a step by,
    of each. pool, pool_rows: the same of the tasks of G1 to G3, the last of which is related to no other. new: families
    of the tasks that come later, of `few` rows each; kin: the numbers in the pool of those that they are related to.
    texts: of each task, a fifth of which is judged. steps: of the base's own training. draws: random routes.
    """

    domains: tuple[tuple[int, ...], ...] = ((0, 0, 1), (1, 1, 2), (2, 2, 0))
    rows: tuple[int, ...] = (224, 56, 224)
    pool: tuple[int, ...] = (0, 0, 1, 1, 3)
    pool_rows: tuple[int, ...] = (224, 56, 224, 56, 224)
    new: tuple[int, ...] = (0, 1)
    kin: tuple[int, ...] = (0, 2)
    few: int = 18
    texts: int = 500
    steps: int = 400
    draws: int = 3
    rates: tuple[float, ...] = (3e-3, 1e-2, 2e-2)
    whole_rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    config: MultitaskConfig = CONFIG

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        raw: Mapping[str, Any] = asdict(self)
        return {**raw, "config": self.config.recipe()}


@dataclass(frozen=True, eq=False)
class World:
    """A base and the tasks: those of each domain, those of the pool, and new ones."""

    base: Base
    domains: tuple[tuple[TextTask, ...], ...]
    pool: tuple[TextTask, ...]
    new: tuple[TextTask, ...]


def world(settings: TaskSettings, seed: int) -> World:
    """Return a seed's world; no two tasks are about one topic."""
    groups = (*settings.domains, settings.pool, settings.new)
    counts = [*(settings.rows for _ in settings.domains), settings.pool_rows, (settings.few,) * len(settings.new)]
    made = synthetic_tasks([family for group in groups for family in group], rows=settings.texts, seed=seed)
    texts = ["\n".join(row.text for task in made for row in task.train)]
    base = train_pico(texts, steps=settings.steps, seed=derive_seed(seed, "tasks") % 2**31)
    asked = iter(asked_for_labels(task.name, task.train, task.test) for task in made)
    *domains, pool, new = (tuple(shortened(next(asked), many) for many in own) for own in counts)
    return World(base, tuple(domains), pool, new)


def shortened(task: TextTask, rows: int) -> TextTask:
    """Return a task of which so many rows are left to learn from."""
    return dataclasses.replace(task, train=task.train[:rows])


def encoded(base: Base, tasks: Sequence[TextTask], config: MultitaskConfig, seed: int) -> Lessons:
    """Return tasks as lessons of a seed."""
    return lessons_of(base, tasks, dataclasses.replace(config, seed=seed))


def copied(base: Base) -> Base:
    """Return a model of its own with the weights of another, all of them to be trained."""
    found = Base.from_model(copy.deepcopy(base.model), base.tokenizer, name="pico")
    found.model.requires_grad_(True)
    return found
