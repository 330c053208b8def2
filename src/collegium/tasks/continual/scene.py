"""Where learning takes place: the pool, the lessons, the settings; and one way to train on its rows."""

import functools
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
from collegium.experts.fresh import fresh_adapter, places_of
from collegium.models import Adapter, Base, HeadWeights, PrefixWeights
from collegium.tasks.continual.config import ContinualConfig, adapter_config
from collegium.tasks.continual.keeping import once
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.pool import Lesson, Pool
from collegium.tasks.continual.readout import Columns, choice_nats, new_head
from collegium.train import Checkpoints, Epochs, Logger, LoopConfig, Loss, NullLogger, fit

_HELD_OUT_BATCH = 32
_PREFIX_DEVIATION = 0.1
_NOT_DECIDING = ("rates", "states_mb", "threads", "test_rows")
"""Settings on which nothing that is learnt depends."""

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
        settings = settings or self.settings()
        if settings.kind == "prefix" and not self.base.causal:
            return drawn_prefix(self.base, settings)
        some = self.pool.texts.tokens[:1, : int(self.pool.texts.lengths[0])]
        return fresh_adapter(self.base, settings, ALIKE, tokens=some)

    def new_head(self, task: int) -> HeadWeights:
        """Return a task's head before it is learnt."""
        return new_head(self.base, self.lessons[task].labels, seed=self.config.seed)

    def one_time(self, label: str, make: Callable[[], Knowledge]) -> Knowledge:
        """Return what a label stands for, made once for all methods and orders, and for all runs in one folder."""
        folder = None if self.folder is None else self.folder / "once"
        return once(self.once, label, make, folder=folder, like=self.fresh, identity=self.identity)

    @functools.cached_property
    def identity(self) -> str:
        """What everything learnt here depends on, as one name."""
        settings = {name: value for name, value in self.config.recipe().items() if name not in _NOT_DECIDING}
        texts = [self.pool.texts.tokens.tolist(), self.pool.labels]
        return content_hash([self.base.fingerprint.short, str(self.base.dtype), settings, self.rate, texts])

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


def drawn_prefix(base: Base, settings: FitConfig) -> Adapter:
    """Return a new prefix for an encoder, which keeps no keys and values that one could begin as: small and random."""
    found = {}
    for path, site in places_of(base, settings).items():
        heads, size = site.shape
        draw = generator(settings.seed, "prefix", path)
        keys, values = (
            (_PREFIX_DEVIATION * torch.randn(heads, settings.prefix_tokens, size, generator=draw))
            .to(base.device)
            .requires_grad_()
            for _ in range(2)
        )
        found[path] = PrefixWeights(keys, values)
    return found


def train(
    scene: Scene,
    weights: Mapping[str, Tensor],
    nats: RowNats,
    *,
    rows: Int[Tensor, " row"],
    dev: Int[Tensor, " held_out"],
    label: str,
    penalty: Penalty | None = None,
    loop: LoopConfig | None = None,
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

    checkpoints = None
    if scene.folder is not None:
        identity = content_hash([label, scene.identity, rows.tolist()])
        checkpoints = Checkpoints(scene.folder / "under-way" / identity[:16], identity, every=loop.evaluate_every)
    heads = {name: config.head_rate for name in weights if name.startswith("head ")}
    logger = scene.begin(label, loop.steps)
    fit(
        weights,
        loss,
        config=loop,
        evaluate=held_out if len(dev) else None,
        checkpoints=checkpoints,
        logger=logger,
        rates=heads,
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
