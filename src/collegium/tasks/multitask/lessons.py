"""What is learnt from and tested by: each task's rows as token ids, with what the base makes of them kept.

States below the first block that has adapters are computed task by task, in batches of its own rows alone: so an
adapter that is trained alone comes out the same, to the last bit, as one that is trained among others.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose import entering_states, pooled_states
from collegium.core.errors import ConfigError, DataError
from collegium.data.text_tasks import TaskRow, TextTask
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter
from collegium.models import Adapter, Base, RowPlan
from collegium.rewards.more import attached_as
from collegium.rewards.states import KeptStates, kept_states
from collegium.rewards.texts import TextBatch
from collegium.tasks.multitask.config import MultitaskConfig
from collegium.tasks.multitask.encoding import Answers, RowEncoder, encode_answers, encode_rows

PROBE = ".probe"
"""The name of an adapter that is attached for a while to find out what lies below it."""

_READ_AT_ONCE = 16


@dataclass(frozen=True, eq=False)
class Pool:
    """Texts of several tasks, one task's behind another's, with the states of each task's own.

    tasks: the number of each text's task. starts: where each task's texts begin.
    """

    texts: TextBatch
    tasks: Int[Tensor, " text"]
    starts: tuple[int, ...]
    states: tuple[KeptStates | None, ...]

    def __len__(self) -> int:
        """Count the texts."""
        return len(self.texts)

    def given(self, rows: Int[Tensor, " row"], width: int) -> contextlib.AbstractContextManager[None]:
        """Return the context in which the base takes the states of these texts as read, where they are kept."""
        found = self.of(rows, width)
        trunk = next((each.trunk for each in self.states if each is not None), None)
        return contextlib.nullcontext() if found is None or trunk is None else trunk.given(found)

    def of(self, rows: Int[Tensor, " row"], width: int) -> Float[Tensor, "row width hidden"] | None:
        """Return the states of these texts, None where any of them are not kept."""
        own = self.tasks[rows]
        found: Tensor | None = None
        for task in own.unique().tolist():
            states = self.states[task]
            if states is None:
                return None
            here = (own == task).nonzero().flatten()
            part = states.of(rows[here] - self.starts[task], width)
            found = part.new_zeros(len(rows), width, part.shape[2]) if found is None else found
            found[here.to(found.device)] = part
        return found

    def read(self) -> None:
        """Compute all states that are kept."""
        for states in self.states:
            if states is not None:
                states.read()

    def of_task(self, task: int) -> "Pool":
        """Return the texts of one task alone, which is then the only one."""
        rows = (self.tasks == task).nonzero().flatten()
        return Pool(self.texts.take(rows), torch.zeros(len(rows), dtype=torch.long), (0,), (self.states[task],))

    def prompt_states(
        self, base: Base, first: int, rows: Int[Tensor, " row"] | None = None
    ) -> Float[Tensor, "row two_hidden"]:
        """Return the `pooled_states` of texts' prompts (None = of all) where block `first` begins."""
        found = []
        for part in (torch.arange(len(self)) if rows is None else rows).split(_READ_AT_ONCE):
            batch = self.texts.take(part)
            width = int(batch.prompts.max())
            states = self.of(part, width)
            if states is None:
                found.append(entering_states(base, first, batch.tokens[:, :width], batch.prompts))
            else:
                found.append(pooled_states(states, batch.prompts))
        return torch.cat(found)


@dataclass(frozen=True, eq=False)
class Lessons:
    """All tasks, encoded: rows to learn from, rows to choose a step by, test rows with their answers.

    first: the first block that has adapters. cut: task -> how many of its prompts kept their last tokens alone.
    """

    base: Base
    config: MultitaskConfig
    names: tuple[str, ...]
    train: Pool
    dev: Pool
    answers: tuple[Answers, ...]
    test: Pool
    first: int
    cut: dict[str, int]
    floor: dict[str, float | None]
    documents: dict[str, tuple[str, ...]]

    @property
    def rows(self) -> tuple[int, ...]:
        """How many rows of each task are learnt from."""
        return tuple(self.train.tasks.bincount(minlength=len(self.names)).tolist())

    @property
    def steps(self) -> tuple[int, ...]:
        """The updates of each task's adapter."""
        return tuple(map(self.config.steps, self.rows))

    @property
    def joint_steps(self) -> int:
        """The updates of both stages together: what a method has that learns all at once."""
        return sum(self.steps) + self.config.inter_steps(sum(self.steps))


def lessons_of(base: Base, tasks: Sequence[TextTask], config: MultitaskConfig) -> Lessons:
    """Return tasks encoded for a base; nothing is read by it yet, but a probe.

    Raises ConfigError for one task alone or a name that comes twice, DataError for a task of too few rows.
    """
    names = tuple(task.name for task in tasks)
    check_names(names)
    encoder = RowEncoder(base, config.text_tokens)
    train, dev, answers = [], [], []
    cut: dict[str, int] = {}
    floor: dict[str, float | None] = {}
    documents: dict[str, tuple[str, ...]] = {"train": (), "dev": ()}
    for task in tasks:
        learnt, measured = split_rows(task, config)
        held = {row.document for row in measured}
        documents["train"] += tuple(row.document for row in task.train if row.document not in held)
        documents["dev"] += tuple(row.document for row in measured)
        for part, rows in ((train, learnt), (dev, measured)):
            texts, count = encode_rows(rows, encoder)
            part.append(texts)
            cut[task.name] = cut.get(task.name, 0) + count
        tested = sorted(task.test, key=lambda row: row.hash)[: config.test_rows or None]
        answers.append(encode_answers(tested, encoder))
        cut[task.name] += answers[-1].cut
        floor[task.name] = floor_of(replace(task, test=tuple(tested)))
    probe = fresh_adapter(base, config.adapter(len(base.blocks)), ALIKE, tokens=torch.zeros(1, 1, dtype=torch.long))
    first = min(base.sites[path].block for path in probe)
    with attached_as(base, {PROBE: probe}):
        learnt, measured, judged = (
            pool_of(base, probe, part, config) for part in (train, dev, [each.texts for each in answers])
        )
    return Lessons(base, config, names, learnt, measured, tuple(answers), judged, first, cut, floor, documents)


def check_names(names: Sequence[str]) -> None:
    """Raise ConfigError for a mixture of fewer than two tasks, or of two by one name."""
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"tasks that are learnt together have a name each; {twice[0]!r} comes twice. Rename one.")
    if len(names) < 2:
        raise ConfigError(
            f"tasks are learnt together from two on, got {', '.join(names) or 'none'}. Give a folder with more, or "
            "train an expert of the one: `collegium train`."
        )


def split_rows(task: TextTask, config: MultitaskConfig) -> tuple[list[TaskRow], list[TaskRow]]:
    """Return the rows to learn from and those to choose a step by, in the order of their hashes."""
    rows = sorted(task.train, key=lambda row: row.hash)
    if len(rows) < 2:
        raise DataError(f"task {task.name!r} has {len(rows)} row to learn from; one to learn and one to measure by.")
    held = min(config.dev_rows, max(1, len(rows) // 8))
    most = len(rows) - held if not config.train_rows else min(config.train_rows, len(rows) - held)
    return rows[:most], rows[most : most + held]


def pool_of(base: Base, probe: Adapter, texts: Sequence[TextBatch], config: MultitaskConfig) -> Pool:
    """Return the texts of all tasks side by side; probe: an attached adapter, below which states are kept."""
    limit = config.states_mb // (3 * len(texts))
    plan = RowPlan.one(PROBE)
    states = tuple(kept_states(base, probe, each, plan=plan, limit_mb=limit) for each in texts)
    tokens = torch.nn.utils.rnn.pad_sequence([row for each in texts for row in each.tokens], batch_first=True)
    lengths, prompts = (torch.cat([getattr(each, name) for each in texts]) for name in ("lengths", "prompts"))
    counts = torch.tensor([len(each) for each in texts])
    starts = tuple((counts.cumsum(0) - counts).tolist())
    return Pool(TextBatch(tokens, lengths, prompts), torch.arange(len(texts)).repeat_interleave(counts), starts, states)


def floor_of(task: TextTask) -> float | None:
    """Return the test accuracy of the commonest answer, or of a coin where rows differ in theirs; None for free text.

    >>> from collegium.data.text_tasks import TaskRow
    >>> rows = [TaskRow(f"{n}", " a" if n else " b", (" a", " b")) for n in range(4)]
    >>> floor_of(TextTask("letters", tuple(rows), tuple(rows)))
    0.75
    """
    if not task.chooses:
        return None
    if not task.choices:
        return sum(1 / len(row.choices) for row in task.test) / len(task.test)
    said = [row.completion for row in task.train]
    common = max(sorted(set(said)), key=said.count)
    return sum(row.completion == common for row in task.test) / len(task.test)
