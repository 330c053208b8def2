"""The plan of `multitask fit`: what is learnt in how many steps, and how long that takes on this machine.

Speed is measured by the first steps of the first task's own adapter.
"""

import itertools
from dataclasses import dataclass
from typing import Any

from collegium.models import RowPlan
from collegium.recipes.rewarding.plan import StepClock
from collegium.rewards.fit import adapter_weights
from collegium.rewards.more import attached_as
from collegium.tasks.multitask import Lessons
from collegium.tasks.multitask.objective import TaskObjective, fit_tasks
from collegium.tasks.multitask.parts import adapter_size, fresh_gates, task_adapter
from collegium.train import Epochs

REHEARSED_STEPS = 4
_NUMBER_BYTES = 4
_KEY = ".rehearsal"


@dataclass(frozen=True)
class MultitaskPlan:
    """What a fit will do. step_seconds: measured. cut: task -> prompts that keep their last tokens alone."""

    rows: dict[str, int]
    cut: dict[str, int]
    intra_steps: int
    inter_steps: int
    parameters: int
    step_seconds: float

    @property
    def expected_seconds(self) -> float:
        """How long both stages will take."""
        return (self.intra_steps + self.inter_steps) * self.step_seconds

    def lines(self) -> list[str]:
        """Return the plan as a person reads it."""
        told = [f"{name:12} {count} rows, {self.cut[name]} prompts cut" for name, count in self.rows.items()]
        return [
            *told,
            f"steps        {self.intra_steps} of adapters, {self.inter_steps} of gates; {self.step_seconds:.2f} s each "
            "(measured)",
            f"expected     {self.expected_seconds:.0f} seconds and some for what lies below the adapters, "
            f"{self.parameters * _NUMBER_BYTES / 1e6:.1f} MB of disk",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "rows": self.rows,
            "cut_prompts": self.cut,
            "intra_steps": self.intra_steps,
            "inter_steps": self.inter_steps,
            "parameters": self.parameters,
            "step_seconds": round(self.step_seconds, 4),
            "expected_seconds": round(self.expected_seconds, 1),
            "disk_bytes": self.parameters * _NUMBER_BYTES,
        }


def make_multitask_plan(lessons: Lessons) -> MultitaskPlan:
    """Return the plan of a fit, measured on this machine; nothing is made."""
    base, config = lessons.base, lessons.config
    adapter = task_adapter(base, config)
    gates = fresh_gates(base, adapter, lessons.names, config)
    size = len(lessons.names) * adapter_size(adapter) + gates.parameters
    router = len(lessons.names) * (2 * int(base.config.hidden_size) + 1)
    steps = sum(lessons.steps)
    return MultitaskPlan(
        rows=dict(zip(lessons.names, lessons.rows, strict=True)),
        cut=lessons.cut,
        intra_steps=steps,
        inter_steps=config.inter_steps(steps),
        parameters=size + router,
        step_seconds=rehearsed_seconds(lessons),
    )


def rehearsed_seconds(lessons: Lessons) -> float:
    """Return the seconds of a step, the least of the first few after one that is not counted."""
    base, config, clock = lessons.base, lessons.config, StepClock()
    adapter, plan = task_adapter(base, config), RowPlan.one(_KEY)
    train = lessons.train.of_task(0)
    epochs = Epochs(len(train), config.batch, config.seed)
    objective = TaskObjective(base, lambda tasks, states: plan, train, lessons.dev.of_task(0), epochs)
    with attached_as(base, {_KEY: adapter}):
        weights = adapter_weights(adapter)
        fit_tasks(objective, weights, config=config, steps=REHEARSED_STEPS, rate=1e-6, label="rehearsal", logger=clock)
    each = [after - before for before, after in itertools.pairwise(clock.times)]
    return min(each[1:])
