"""A PicoLlama that has read the texts of made-up tasks, and the stream that it learns."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from collegium.core.randomness import derive_seed
from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.models import Base
from collegium.tasks.continual import ContinualConfig, Lesson, Pool, make_pool
from collegium.testing.pico import train_pico

CONFIG = ContinualConfig(
    train_rows=0, test_rows=0, text_tokens=72, template=" :", layers="all", passes=8.0, rates=(5e-4, 1e-3, 2e-3),
    memory=16, threads=1,
)  # fmt: skip
RATE_SEED = 0
"""The one seed on which learning rates are chosen."""


@dataclass(frozen=True)
class StreamSettings:
    """What a toy stream is made of.

    families: of the tasks, the last of which is held out: nobody learns it. nested, apart: families of the streams
    that L5 compares. rows: of each task. steps: of the base's own training.
    """

    families: tuple[int, ...] = (0, 0, 1, 2, 0)
    nested: tuple[int, ...] = (0, 0, 0, 0)
    apart: tuple[int, ...] = (0, 1, 2, 3)
    rows: int = 400
    steps: int = 600
    memories: tuple[int, ...] = (1, 5, 20, 80)
    config: ContinualConfig = CONFIG

    def plain(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        raw: Mapping[str, Any] = asdict(self)
        lists = {key: list(value) if isinstance(value, tuple) else value for key, value in raw.items()}
        return {**lists, "config": self.config.recipe()}


def world(families: tuple[int, ...], settings: StreamSettings, seed: int) -> tuple[Base, Pool, tuple[Lesson, ...]]:
    """Return a base that has read these tasks' texts without labels, the pool of them, and the tasks as lessons."""
    tasks = synthetic_tasks(families, rows=settings.rows, seed=seed)
    texts = ["\n".join(row.text for task in tasks for row in task.train)]
    base = train_pico(texts, steps=settings.steps, seed=derive_seed(seed, "stream") % 2**31)
    pool, lessons = make_pool(base, tasks, settings.config)
    return base, pool, lessons
