"""What a fit went through: one line a step, one a measurement, and the rule that tells divergence."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Step:
    """One update: mean loss over what it counted, the learning rate and the gradient's norm before clipping."""

    step: int
    loss: float
    learning_rate: float
    gradient_norm: float
    counted: int


@dataclass(frozen=True)
class Evaluation:
    """The held-out loss after `step` updates (0 = before the first)."""

    step: int
    loss: float


@dataclass(frozen=True)
class History:
    """A fit's learning curve; holds no times, so that equal fits have equal histories."""

    steps: tuple[Step, ...] = ()
    evaluations: tuple[Evaluation, ...] = ()

    @property
    def best(self) -> Evaluation | None:
        """The earliest measurement with the lowest held-out loss, None where nothing was measured."""
        return min(self.evaluations, key=lambda each: each.loss) if self.evaluations else None

    @property
    def counted(self) -> int:
        """How much was counted in all steps (tokens with a loss), repetitions included."""
        return sum(each.counted for each in self.steps)

    def without_improvement(self) -> int:
        """Return how many measurements lie after the best one."""
        best = self.best
        return sum(each.step > best.step for each in self.evaluations) if best else 0


def history_from_json(raw: Mapping[str, Any]) -> History:
    """Return the history that `dataclasses.asdict` made plain."""
    return History(
        tuple(Step(**each) for each in raw["steps"]), tuple(Evaluation(**each) for each in raw["evaluations"])
    )


class DivergenceWatch:
    """Tells when losses stay far above the best level they had reached.

    With m the mean of the last n losses, low the smallest m so far: diverged when all of the last n losses exceed
    low + (factor - 1) * max(|low|, 1). For a loss above one nat that is a multiple of the lowest level; below it (and
    for negative losses) noise is measured against one nat instead.
    """

    def __init__(self, factor: float, window: int, losses: Iterable[float] = ()) -> None:
        """Start from the losses of earlier steps."""
        self.factor, self.window = factor, window
        self.recent: list[float] = []
        self.lowest = math.inf
        for loss in losses:
            self.add(loss)

    @property
    def limit(self) -> float:
        """The loss above which a step counts as far off; infinite before the first n steps are over."""
        return self.lowest + (self.factor - 1) * max(abs(self.lowest), 1.0)

    def add(self, loss: float) -> bool:
        """Take the loss of one more step and return whether the fit has diverged."""
        self.recent = [*self.recent, loss][-self.window :]
        if len(self.recent) < self.window:
            return False
        diverged = min(self.recent) > self.limit
        self.lowest = min(self.lowest, sum(self.recent) / self.window)
        return diverged
