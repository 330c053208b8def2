"""Where learning takes place: the pool, the lessons, the settings; and one way to train on its rows."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collegium.core.cards import content_hash
from collegium.core.randomness import derive_seed, generator
from collegium.experts import FitConfig
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter
from collegium.models import Adapter, Base, HeadWeights
from collegium.tasks.continual.config import ContinualConfig, adapter_config
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.pool import Lesson, Pool
from collegium.tasks.continual.readout import Columns, choice_nats, new_head
from collegium.train import Checkpoints, Epochs, Logger, LoopConfig, Loss, NullLogger, fit

_HELD_OUT_BATCH = 32

RowNats = Callable[[Tensor, int | None], Float[Tensor, " row"]]
"""Rows of the pool and the number of the step (None = they are held out) -> the nats of each one's label."""
Penalty = Callable[[int, Tensor], Float[Tensor, ""]]
"""Number of the step and its rows -> what is added to the mean nats."""


@dataclass(frozen=True, eq=False)
class Scene:
    """One stream on one base, with one learning rate.

    lessons: all tasks, by their numbers. folder: where interrupted fits lie, None = they begin anew.
    begin: told what is fitted in how many steps, returns its logger.
    once: what does not depend on the order of tasks, by what it was fitted on; shared by all methods and orders.
    """

    base: Base
    config: ContinualConfig
    pool: Pool
    lessons: tuple[Lesson, ...]
    rate: float
    folder: Path | None = None
    begin: Callable[[str, int], Logger] = lambda label, steps: NullLogger()
    once: dict[str, Knowledge] = field(default_factory=dict)

    @property
    def readout(self) -> Literal["heads", "words"]:
        """How labels are told on this base."""
        return "words" if self.base.speaks else "heads"

    def settings(self) -> FitConfig:
        """Return the settings of one adapter."""
        return adapter_config(self.config, len(self.base.blocks))

    def fresh(self, settings: FitConfig | None = None) -> Adapter:
        """Return a new adapter, ready to be trained; all begin alike."""
        some = self.pool.texts.tokens[:1, : int(self.pool.texts.lengths[0])]
        return fresh_adapter(self.base, settings or self.settings(), ALIKE, tokens=some)

    def new_head(self, task: int) -> HeadWeights:
        """Return a task's head before it is learnt."""
        return new_head(self.base, self.lessons[task].labels, seed=self.config.seed)

    def columns(self, tasks: Sequence[int]) -> Columns:
        """Return the columns of these tasks' heads side by side."""
        return Columns(tuple(tasks), tuple(self.lessons[task].labels for task in tasks))

    def heads(self, tasks: Sequence[int], knowledge: Knowledge) -> list[HeadWeights]:
        """Return these tasks' heads, in order."""
        return [knowledge.heads[self.lessons[task].name] for task in tasks]

    def allowed(self, rows: Int[Tensor, " row"], columns: Columns, *, alone: bool) -> Bool[Tensor, "row column"]:
        """Return which columns compete for each row: its own task's where the setup or `alone` says so, else all."""
        own = columns.own(self.pool.tasks[rows])
        return own if alone or self.config.setup == "task" else torch.ones_like(own)

    def nats(
        self, outputs: Float[Tensor, "row column"], rows: Int[Tensor, " row"], columns: Columns, *, alone: bool
    ) -> Float[Tensor, " row"]:
        """Return the nats of each row's label among the columns that compete."""
        right = columns.right(self.pool.labels_of(rows)).to(outputs.device)
        return choice_nats(outputs, right, self.allowed(rows, columns, alone=alone).to(outputs.device))


def train(
    scene: Scene,
    weights: Mapping[str, Tensor],
    nats: RowNats,
    *,
    rows: Int[Tensor, " row"],
    dev: Int[Tensor, " row"],
    label: str,
    penalty: Penalty | None = None,
    loop: LoopConfig | None = None,
    rates: Mapping[str, float] | None = None,
) -> None:
    """Change the weights in place until the nats of these rows' labels are low; they end where those of dev are lowest.

    label: what is fitted: the name of its order of rows, of its checkpoints, and of its bar.

    Raises TrainingError when the fit diverges.
    """
    config = scene.config
    loop = loop or config.loop(len(rows), readout=scene.readout, rate=scene.rate)
    epochs = Epochs(len(rows), config.batch, derive_seed(config.seed, "rows", label))

    def loss(step: int, part: int) -> Loss:
        chosen = rows[epochs.rows(step)]
        total = nats(chosen, step).sum()
        return Loss(total if penalty is None else total + len(chosen) * penalty(step, chosen), len(chosen))

    def held_out() -> float:
        return float(torch.cat([nats(part, None) for part in dev.split(_HELD_OUT_BATCH)]).mean())

    identity = content_hash([label, config.recipe(), scene.rate, rows.tolist(), scene.pool.texts.tokens.shape[0]])
    checkpoints = None
    if scene.folder is not None:
        checkpoints = Checkpoints(scene.folder / identity[:16], identity, every=loop.evaluate_every)
    heads = {name: config.head_rate for name in weights if name.startswith("head ")}
    logger = scene.begin(label, loop.steps)
    fit(
        weights,
        loss,
        config=loop,
        evaluate=held_out if len(dev) else None,
        checkpoints=checkpoints,
        logger=logger,
        rates={**heads, **(rates or {})},
    )
    logger.close()


def remembered(scene: Scene, tasks: Sequence[int]) -> Int[Tensor, " row"]:
    """Return the rows of these tasks that are remembered: as many of each class, drawn from those learnt from."""
    kept = []
    for task in tasks:
        lesson = scene.lessons[task]
        labels = scene.pool.labels_of(lesson.train)
        for label in lesson.labels:
            own = lesson.train[torch.tensor([each == label for each in labels])]
            order = torch.randperm(len(own), generator=generator(scene.config.seed, "memory", lesson.name, label))
            kept.append(own[order[: scene.config.memory]])
    return torch.cat(kept) if kept else torch.empty(0, dtype=torch.long)
