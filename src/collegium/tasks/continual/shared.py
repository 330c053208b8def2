"""One adapter for all tasks: what it learns of one changes what it knows of others.

* `sequential`  goes on with each task as it comes.
* `replay`      reads as many remembered rows of earlier tasks beside each batch.
* `ewc`         + lambda / 2 sum_i F_i (theta_i - theta*_i)^2, F the mean squared slopes of log p(label | text) after
                each earlier task, added up  [kirkpatrick2017ewc].
* `lwf`         + sum over earlier heads of T^2 KL(as before || now) on the new task's texts  [li2017lwf].
* `joint`       all rows of all tasks so far, from the start.

All of them learn the first task as it is learnt alone.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from collegium.core.randomness import derive_seed
from collegium.models import Adapter, HeadWeights, RowPlan
from collegium.tasks.continual.alone import alone
from collegium.tasks.continual.knowledge import (
    Knowledge,
    adapter_tensors,
    learnable,
    learnable_head,
    learnt,
    learnt_head,
    wearing,
)
from collegium.tasks.continual.readout import told, trained_heads
from collegium.tasks.continual.scene import Penalty, Scene, remembered, train
from collegium.train import Epochs

ONE = "shared"
"""The name of the only adapter."""
EWC_STRENGTH = 1000.0
EWC_ROWS = 64
"""Rows of a task that its squared slopes are the mean of."""
LWF_TEMPERATURE = 2.0


class _Pupil:
    """An adapter and heads while they are trained on the last of some tasks."""

    def __init__(self, scene: Scene, seen: tuple[int, ...], before: Knowledge, *, anew: bool = False) -> None:
        """Begin where the earlier task ended, or anew."""
        self.scene, self.seen = scene, seen
        known = {} if anew else before.heads
        self.adapter: Adapter = scene.fresh() if anew or ONE not in before.adapters else learnable(before.adapters[ONE])
        self.heads: dict[str, HeadWeights] = {}
        for task in seen:
            name = scene.lessons[task].name
            head = known.get(name) or scene.new_head(task)
            self.heads[name] = learnt_head(head) if scene.base.speaks else learnable_head(head)
        self.key = ""
        self._read: tuple[Tensor, Tensor] | None = None

    @property
    def name(self) -> str:
        """The name of the task that is learnt."""
        return self.scene.lessons[self.seen[-1]].name

    def states(self, rows: Tensor) -> Tensor:
        """Return what the adapter makes of texts; of the same rows, asked for twice in a step, once."""
        if self._read is None or self._read[0] is not rows:
            self._read = rows, self.scene.pool.states(rows, RowPlan.one(self.key))
        return self._read[1]

    def nats(self, rows: Tensor, tasks: Sequence[int], *, alone: bool = True) -> Tensor:
        """Return the nats of rows of these tasks."""
        heads = [self.heads[self.scene.lessons[task].name] for task in tasks]
        return self.scene.nats(told(self.states(rows), heads), rows, self.scene.columns(tasks), alone=alone)

    def weights(self, *names: str) -> dict[str, Tensor]:
        """Return what is trained: the adapter, and the heads of these tasks."""
        return adapter_tensors(self.adapter) | trained_heads(self.heads, names)

    def begin_as(self, own: Knowledge) -> None:
        """Know what the first task's adapter and head alone know: there is nothing to hold on to yet."""
        self.adapter, self.heads = learnable(own.adapters[self.name]), dict(own.heads)

    def known(self, before: Knowledge, **extra: Tensor) -> Knowledge:
        """Return what is known afterwards."""
        heads = {name: learnt_head(head) for name, head in self.heads.items()}
        return Knowledge({ONE: learnt(self.adapter)}, heads, {**before.extra, **extra})


def _label(method: str, scene: Scene, seen: tuple[int, ...]) -> str:
    *earlier, name = (scene.lessons[task].name for task in seen)
    return f"{method}: {name} after {', '.join(earlier)}"


def learn_sequential(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the adapter gone on with the last task."""
    return _go_on(scene, seen, before, method="sequential")


def _go_on(
    scene: Scene, seen: tuple[int, ...], before: Knowledge, *, method: str, pupil: _Pupil | None = None,
    penalty: Penalty | None = None, names: Sequence[str] = (),
) -> Knowledge:  # fmt: skip
    lesson, pupil = scene.lessons[seen[-1]], pupil or _Pupil(scene, seen, before)
    if len(seen) == 1:
        pupil.begin_as(alone(scene, seen[0]))
        return pupil.known(before)
    with wearing(scene.base, {ONE: pupil.adapter}) as (pupil.key,):
        train(
            scene,
            pupil.weights(lesson.name, *names),
            lambda rows, step: pupil.nats(rows, seen[-1:]),
            rows=lesson.train,
            dev=lesson.dev,
            label=_label(method, scene, seen),
            penalty=penalty,
        )
    return pupil.known(before)


def learn_replay(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the adapter gone on with the last task, remembered rows of the others beside it."""
    pupil, earlier = _Pupil(scene, seen, before), seen[:-1]
    memory = remembered(scene, earlier)
    if not len(memory):
        return _go_on(scene, seen, before, method="replay", pupil=pupil)
    order = Epochs(len(memory), scene.config.batch, derive_seed(scene.config.seed, "replay", pupil.name))

    def penalty(step: int, rows: Tensor) -> Tensor:
        return pupil.nats(memory[order.rows(step)], earlier).mean()

    names = [scene.lessons[task].name for task in earlier]
    return _go_on(scene, seen, before, method="replay", pupil=pupil, penalty=penalty, names=names)


def learn_ewc(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the adapter gone on with the last task, held back where earlier ones depend on it."""
    pupil = _Pupil(scene, seen, before)
    moved = adapter_tensors(pupil.adapter)
    stars = {name: each.detach().clone() for name, each in moved.items()}
    earlier = before.extra

    def penalty(step: int, rows: Tensor) -> Tensor:
        parts = [(earlier[f"fisher {name}"] * (each - stars[name]).square()).sum() for name, each in moved.items()]
        return EWC_STRENGTH / 2 * torch.stack(parts).sum()

    after = _go_on(scene, seen, before, method="ewc", pupil=pupil, penalty=penalty)
    return after.having(extra=_stiffer(pupil, before))


def _stiffer(pupil: _Pupil, before: Knowledge) -> dict[str, Tensor]:
    """Return the squared slopes of all tasks so far, added up."""
    scene, lesson = pupil.scene, pupil.scene.lessons[pupil.seen[-1]]
    moved = adapter_tensors(pupil.adapter)
    found = {name: torch.zeros_like(each) for name, each in moved.items()}
    rows = lesson.train[:EWC_ROWS]
    with wearing(scene.base, {ONE: pupil.adapter}) as (pupil.key,):
        for row in rows.split(1):
            slopes = torch.autograd.grad(pupil.nats(row, pupil.seen[-1:]).sum(), list(moved.values()))
            for name, slope in zip(moved, slopes, strict=True):
                found[name] += slope.square() / len(rows)
    earlier = before.extra
    return {f"fisher {name}": each + earlier.get(f"fisher {name}", 0.0) for name, each in found.items()}


def learn_lwf(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return the adapter gone on with the last task, saying of its texts what it said before in the earlier heads."""
    pupil, earlier = _Pupil(scene, seen, before), seen[:-1]
    lesson, teacher = scene.lessons[seen[-1]], {}
    if earlier:
        with wearing(scene.base, {ONE: pupil.adapter}) as (pupil.key,), torch.no_grad():
            for rows in lesson.train.split(32):
                states = pupil.states(rows)
                for task in earlier:
                    name = scene.lessons[task].name
                    said = (before.heads[name](states) / LWF_TEMPERATURE).log_softmax(-1)
                    teacher.setdefault(name, []).append(said)
    taught = {name: torch.cat(parts) for name, parts in teacher.items()}
    place = {row: number for number, row in enumerate(lesson.train.tolist())}

    def penalty(step: int, rows: Tensor) -> Tensor:
        states, where = pupil.states(rows), torch.tensor([place[row] for row in rows.tolist()])
        parts = []
        for name, log_before in taught.items():
            log_now = (before.heads[name](states) / LWF_TEMPERATURE).log_softmax(-1)
            old = log_before[where]
            parts.append((old.exp() * (old - log_now)).sum(-1).mean())
        return LWF_TEMPERATURE**2 * torch.stack(parts).sum()

    return _go_on(scene, seen, before, method="lwf", pupil=pupil, penalty=penalty)


def learn_joint(scene: Scene, seen: tuple[int, ...], before: Knowledge) -> Knowledge:
    """Return an adapter trained on all tasks so far together, from the start; their labels compete as at test."""
    seen = tuple(sorted(seen))
    if len(seen) == 1:
        return _go_on(scene, seen, Knowledge(), method="joint")
    label = f"joint: {', '.join(scene.lessons[task].name for task in seen)}"
    return scene.one_time(label, lambda: _train_joint(scene, seen, label))


def _train_joint(scene: Scene, seen: tuple[int, ...], label: str) -> Knowledge:
    lessons = [scene.lessons[task] for task in seen]
    pupil = _Pupil(scene, seen, Knowledge(), anew=True)
    with wearing(scene.base, {ONE: pupil.adapter}) as (pupil.key,):
        train(
            scene,
            pupil.weights(*(each.name for each in lessons)),
            lambda rows, step: pupil.nats(rows, seen, alone=False),
            rows=torch.cat([each.train for each in lessons]),
            dev=torch.cat([each.dev for each in lessons]),
            label=label,
        )
    return pupil.known(Knowledge())
