"""The loss of many tasks: nats of the answers alone, each row counting alike however long its answer is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.cards import content_hash
from collegium.models import Base, RowPlan
from collegium.tasks.multitask.config import MultitaskConfig
from collegium.tasks.multitask.encoding import scored_tokens
from collegium.tasks.multitask.lessons import Pool
from collegium.train import Checkpoints, Epochs, Fit, Logger, Loss, fit

Plan = Callable[[Int[Tensor, " row"], Callable[[], Float[Tensor, "row two_hidden"]]], RowPlan]
"""Given the numbers of some rows' tasks, and what gives their prompts' `pooled_states`, returns how they are run."""


def row_nats(
    base: Base, pool: Pool, rows: Int[Tensor, " row"], plan: RowPlan
) -> tuple[Float[Tensor, " row"], Int[Tensor, " row"]]:
    """Return the nats of some texts' answers, and how many tokens these are."""
    batch = pool.texts.take(rows)
    scored = scored_tokens(batch)
    with pool.given(rows, batch.tokens.shape[1]):
        nats = base.token_nats(batch.tokens, lengths=batch.lengths, scored=scored, plan=plan)
    return nats.sum(1), scored.sum(1)


@dataclass(frozen=True, eq=False)
class TaskObjective:
    """Losses of a plan's weights; what is read in a step is a function of the step's number."""

    base: Base
    plan: Plan
    train: Pool
    dev: Pool
    epochs: Epochs

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed loss of one batch, and how many rows it is of."""
        rows = self.epochs.rows(step)
        return Loss(self._losses(self.train, rows).sum(), len(rows))

    def held_out(self) -> float:
        """Return the mean loss of a dev row."""
        parts = torch.arange(len(self.dev)).split(self.epochs.batch)
        return float(sum(float(self._losses(self.dev, rows).sum()) for rows in parts)) / len(self.dev)

    def _losses(self, pool: Pool, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
        nats, count = row_nats(self.base, pool, rows, self.plan(pool.tasks[rows], _nobody_asks))
        return nats / count.to(nats.device)


def _nobody_asks() -> Tensor:
    raise AssertionError("tasks are given while gates are trained")


def fit_tasks(
    objective: TaskObjective,
    weights: Mapping[str, Tensor],
    *,
    config: MultitaskConfig,
    steps: int,
    rate: float,
    rates: Mapping[str, float] | None = None,
    measures: int | None = None,
    folder: Path | None = None,
    label: str,
    logger: Logger | None = None,
) -> Fit:
    """Return the fit of these weights; they end at their best dev loss. label: what is fitted, of a checkpoint.

    Raises TrainingError when a loss is not finite or the fit diverges.
    """
    loop = config.loop(steps, rate, measures=measures)
    checkpoints = None
    if folder is not None:
        texts = [pool.texts for pool in (objective.train, objective.dev)]
        read = [[each.tokens.tolist(), each.lengths.tolist(), each.prompts.tolist()] for each in texts]
        base = [objective.base.fingerprint.short, str(objective.base.dtype)]
        identity = content_hash([label, config.recipe(), steps, base, read])
        checkpoints = Checkpoints(folder / label, identity, every=loop.evaluate_every)
    return fit(
        weights,
        objective.loss,
        config=loop,
        evaluate=objective.held_out,
        checkpoints=checkpoints,
        logger=logger,
        rates=rates,
    )
