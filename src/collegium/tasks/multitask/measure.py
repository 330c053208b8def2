"""How well tasks are done: perplexity of the answers, and accuracy where answers compete, by the least nats."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import traced_weights
from collegium.models import Base
from collegium.ops.pooling import real_tokens
from collegium.tasks.multitask.encoding import Answers
from collegium.tasks.multitask.lessons import Lessons, Pool
from collegium.tasks.multitask.objective import Plan, row_nats

_AT_ONCE = 16


@dataclass(frozen=True)
class Quality:
    """Of each task: its answers' perplexity a token, and accuracy where answers compete (None: free text)."""

    perplexity: Mapping[str, float]
    accuracy: Mapping[str, float | None]

    @property
    def average_accuracy(self) -> float | None:
        """The mean over the tasks that have an accuracy."""
        known = [each for each in self.accuracy.values() if each is not None]
        return sum(known) / len(known) if known else None

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        accuracy, perplexity = dict(self.accuracy), dict(self.perplexity)
        return {"average_accuracy": self.average_accuracy, "accuracy": accuracy, "perplexity": perplexity}


def quality_of(
    names: Sequence[str],
    answers: Sequence[Answers],
    nats: Sequence[Float[Tensor, " _"]],
    counts: Sequence[Int[Tensor, " _"]],
) -> Quality:
    """Return what the nats of all answers say, task by task.

    The answer of least nats is chosen among those that compete; its length plays no part, and of equals the first is.
    """
    perplexity, accuracy = {}, {}
    for name, each, own, count in zip(names, answers, nats, counts, strict=True):
        right = each.right
        perplexity[name] = math.exp(float(own[right].double().sum()) / int(count[right].sum()))
        accuracy[name] = _accuracy(each, own) if each.chooses else None
    return Quality(perplexity, accuracy)


def _accuracy(answers: Answers, nats: Float[Tensor, " text"]) -> float:
    hits = 0
    offered = nats.double().masked_fill(~answers.competes, math.inf)
    for row in range(answers.rows):
        here = (answers.row == row).nonzero().flatten()
        hits += bool(answers.right[here[offered[here].argmin()]])
    return hits / answers.rows


@torch.no_grad()
def measure(lessons: Lessons, plan: Plan, *, progress: Callable[[int], None] | None = None) -> Quality:
    """Return how well a plan does the test rows of all tasks."""
    base, pool = lessons.base, lessons.test
    nats, counts = [], []
    for rows in torch.arange(len(pool)).split(_AT_ONCE):
        found, count = row_nats(base, pool, rows, plan(pool.tasks[rows], _states(base, lessons.first, pool, rows)))
        nats.append(found.cpu())
        counts.append(count)
        if progress is not None:
            progress(int(rows[-1]) + 1)
    sizes = [len(each.texts) for each in lessons.answers]
    return quality_of(lessons.names, lessons.answers, torch.cat(nats).split(sizes), torch.cat(counts).split(sizes))


def _states(
    base: Base, first: int, pool: Pool, rows: Int[Tensor, " row"]
) -> Callable[[], Float[Tensor, "row two_hidden"]]:
    return lambda: pool.prompt_states(base, first, rows)


@torch.no_grad()
def task_accuracy(lessons: Lessons, router: Callable[[Tensor], Tensor]) -> dict[str, float]:
    """Return of each task the share of test prompts that a router takes to be of it."""
    said = router(lessons.test.prompt_states(lessons.base, lessons.first)).argmax(-1).cpu()
    right = torch.cat([each.right for each in lessons.answers])
    return {
        name: float((said[right & (lessons.test.tasks == place)] == place).float().mean())
        for place, name in enumerate(lessons.names)
    }


@torch.no_grad()
def alpha_matrix(lessons: Lessons, plan: Plan) -> Float[Tensor, "task expert"]:
    """Return how much weight each adapter has on the test rows of each task: the mean over tokens and places."""
    count, pool = len(lessons.names), lessons.test
    total, read = torch.zeros(count, count, dtype=torch.float64), torch.zeros(count, dtype=torch.float64)
    right = torch.cat([each.right for each in lessons.answers]).nonzero().flatten()
    for rows in right.split(_AT_ONCE):
        batch, tasks = pool.texts.take(rows), pool.tasks[rows]
        asked = plan(tasks, _states(lessons.base, lessons.first, pool, rows))
        with pool.given(rows, batch.tokens.shape[1]):
            said = traced_weights(lessons.base, asked, batch.tokens, count)
        weights = torch.stack([each.double().cpu() for each in said.values()]).mean(0)
        real = real_tokens(batch.tokens, batch.lengths)
        total.index_add_(0, tasks, (weights * real[..., None]).sum(1))
        read.index_add_(0, tasks, real.sum(1).double())
    return (total / read[:, None].clamp(min=1)).float()
