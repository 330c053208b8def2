"""One model of what was learnt: who speaks on each text, and what the heads then say of it."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.protocols import Gate
from collegium.models import Group, RowPlan
from collegium.tasks.continual.knowledge import Knowledge, wearing
from collegium.tasks.continual.readout import told
from collegium.tasks.continual.scene import Scene

_BATCH = 32

Weigh = Callable[[Tensor], Tensor | None]
"""Rows of the pool -> how much of each adapter, `[*layer, row, 1, adapter]`; None = 1 of each."""


@dataclass(frozen=True, eq=False)
class Composition:
    """How a method's adapters speak together.

    adapters: of the knowledge, those that take part, in the order of the weights.
    gates:    module path -> what weighs the adapters there by its own input, in place of `weigh`.
    merged:   whether their parameters are averaged in place of what they say.
    scales, shifts: of each task's head, in order.
    """

    adapters: tuple[str, ...]
    weigh: Weigh = lambda rows: None
    gates: Mapping[str, Gate] | None = None
    merged: bool = False
    scales: tuple[float, ...] = ()
    shifts: tuple[float, ...] = ()

    def plan(self, keys: tuple[str, ...], rows: Int[Tensor, " row"]) -> RowPlan:
        """Return the plan of these rows; keys: under which the adapters are attached."""
        if self.gates is not None:
            return RowPlan((Group(keys, gates=self.gates),))
        return RowPlan((Group(keys, self.weigh(rows), merged=self.merged),))


@contextmanager
def speaking(
    scene: Scene, knowledge: Knowledge, composition: Composition
) -> Iterator[Callable[[Tensor], Float[Tensor, "row hidden"]]]:
    """Give the function of rows that returns their states as the composed model has them, inside the `with`."""
    with wearing(scene.base, {name: knowledge.adapters[name] for name in composition.adapters}) as keys:
        yield lambda rows: scene.pool.states(rows, composition.plan(keys, rows))


@torch.no_grad()
def outputs(
    scene: Scene,
    tasks: Sequence[int],
    knowledge: Knowledge,
    *,
    composition: Composition,
    rows: Int[Tensor, " row"],
) -> Float[Tensor, "row column"]:
    """Return what these tasks' heads say of rows, side by side, scaled and shifted as the composition has it."""
    heads = scene.heads(tasks, knowledge)
    with speaking(scene, knowledge, composition) as states:
        found = torch.cat([told(states(part), heads).cpu() for part in rows.split(_BATCH)])
    return scaled(found, scene, tasks, composition)


def scaled(
    found: Float[Tensor, "row column"], scene: Scene, tasks: Sequence[int], composition: Composition
) -> Float[Tensor, "row column"]:
    """Return outputs with each head's scale and shift applied."""
    if not composition.scales:
        return found
    sizes = torch.tensor([len(scene.lessons[task].labels) for task in tasks])
    scales, shifts = (torch.tensor(each).repeat_interleave(sizes) for each in (composition.scales, composition.shifts))
    return found * scales + shifts


def head_scales(
    found: Float[Tensor, "row column"], rows: Int[Tensor, " row"], scene: Scene, tasks: Sequence[int]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the scale and the shift of each head with which remembered rows' labels have the fewest nats.

    found: what the heads say of these rows. Every task counts alike, however many classes it has. Scales are positive;
    a tenth of a nat is paid for a scale e times as large or as small, and for a shift by one, so that few rows decide
    little.
    """
    columns = scene.columns(tasks)
    sizes = torch.tensor([len(own) for own in columns.labels])
    share = task_shares(scene, rows)
    log_scale, shift = (torch.zeros(len(tasks), requires_grad=True) for _ in range(2))
    search = torch.optim.LBFGS([log_scale, shift], max_iter=100, line_search_fn="strong_wolfe")

    def nats() -> Tensor:
        search.zero_grad()
        moved = found * log_scale.exp().repeat_interleave(sizes) + shift.repeat_interleave(sizes)
        paid = 0.1 * (log_scale.square().mean() + shift.square().mean())
        total = (share * scene.nats(moved, rows, columns, alone=False)).sum() + paid
        total.backward()
        return total

    search.step(nats)  # pyright: ignore[reportArgumentType]
    return tuple(log_scale.detach().exp().tolist()), tuple(shift.detach().tolist())


def task_shares(scene: Scene, rows: Int[Tensor, " row"]) -> Float[Tensor, " row"]:
    """Return how much each row counts where all tasks count alike; sums to 1."""
    tasks = scene.pool.tasks[rows]
    counts = torch.bincount(tasks)
    return 1 / (counts[tasks] * (counts > 0).sum())
