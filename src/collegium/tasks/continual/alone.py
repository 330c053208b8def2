"""Learning in isolation: each task has an adapter and a head of its own, trained while no other is there.

What comes of a task does not depend on the tasks before it (claim L1), and nothing that comes later changes it (L2).
It is therefore trained once for all methods and orders.
"""

from torch import Tensor

from collegium.models import RowPlan
from collegium.tasks.continual.knowledge import (
    Knowledge,
    adapter_tensors,
    learnt,
    learnt_head,
    wearing,
)
from collegium.tasks.continual.readout import told, trained_heads
from collegium.tasks.continual.scene import Scene, train


def alone(scene: Scene, task: int) -> Knowledge:
    """Return the adapter and the head of a task trained by itself."""
    lesson = scene.lessons[task]
    return scene.one_time(f"{lesson.name} alone", lambda: _train_alone(scene, task))


def _train_alone(scene: Scene, task: int) -> Knowledge:
    lesson = scene.lessons[task]
    adapter, head = scene.fresh(), scene.new_head(task)
    columns = scene.columns((task,))
    weights = adapter_tensors(adapter) | trained_heads({lesson.name: head}, (lesson.name,))
    with wearing(scene.base, {lesson.name: adapter}) as (key,):

        def nats(rows: Tensor, step: int | None) -> Tensor:
            return scene.nats(told(scene.pool.states(rows, RowPlan.one(key)), [head]), rows, columns, alone=True)

        train(scene, weights, nats, rows=lesson.train, dev=lesson.dev, label=f"{lesson.name} alone")
    return Knowledge({lesson.name: learnt(adapter)}, {lesson.name: learnt_head(head)})


def learn_alone(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return what was known with the last task's own adapter and head added."""
    own = alone(scene, seen[-1])
    return before.having(adapters=own.adapters, heads=own.heads)
