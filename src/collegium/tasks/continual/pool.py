"""All texts of a stream side by side, read by the base once.

Every method and order takes what it needs from here: the states below the adapters (computed on first use), and the
two views of a text by which routers choose: the base's own last state of it, and the largest of its embeddings.
"""

import contextlib
import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import BaseModelError, DataError
from collegium.data.labelled import LabelledTask, LabelledText
from collegium.experts.fresh import places_of
from collegium.models import BASE_ROWS, Base, RowPlan
from collegium.ops.pooling import mean_of, real_tokens
from collegium.rewards.reading import Reading
from collegium.rewards.states import KeptStates, kept_states
from collegium.rewards.texts import EncodedSample, TextBatch, batch_of, marks_of
from collegium.tasks.continual.config import ContinualConfig, adapter_config

_BATCH = 32


@dataclass(frozen=True, eq=False)
class Lesson:
    """A task as numbers of texts in the pool. labels: in order, of its head's outputs."""

    name: str
    labels: tuple[str, ...]
    train: Int[Tensor, " train"]
    dev: Int[Tensor, " dev"]
    test: Int[Tensor, " test"]


@dataclass(frozen=True, eq=False)
class Pool:
    """The texts of all tasks. tasks: the number of each text's task. labels: what each is labelled."""

    base: Base
    reading: Reading
    texts: TextBatch
    tasks: Int[Tensor, " text"]
    labels: tuple[str, ...]
    kept: KeptStates | None = None

    def states(self, rows: Int[Tensor, " row"], plan: RowPlan = BASE_ROWS) -> Float[Tensor, "row hidden"]:
        """Return the state that a head reads of each text, float32, with gradient where asked for."""
        hidden, batch = self._hidden(rows, plan)
        return self.reading.pool(self.base, hidden, batch.tokens.to(hidden.device), batch.lengths)

    def labels_of(self, rows: Int[Tensor, " row"]) -> list[str]:
        """Return what these texts are labelled."""
        return [self.labels[row] for row in rows.tolist()]

    @functools.cached_property
    def queries(self) -> Float[Tensor, "text hidden"]:
        """The base's own last state of each text: an encoder's first token, the mean of a decoder's tokens."""

        def seen(rows: Tensor) -> Tensor:
            hidden, batch = self._hidden(rows, BASE_ROWS)
            if not self.base.causal:
                return hidden[:, 0].float()
            return mean_of(hidden, real_tokens(batch.tokens, batch.lengths))

        return self._in_parts(seen)

    @functools.cached_property
    def embedded(self) -> Float[Tensor, "text hidden"]:
        """The largest of each text's token embeddings, in each place."""

        def seen(rows: Tensor) -> Tensor:
            batch = self.texts.take(rows)
            return largest_embeddings(self.base, batch.tokens, batch.lengths)

        return self._in_parts(seen)

    def _hidden(self, rows: Tensor, plan: RowPlan) -> tuple[Tensor, TextBatch]:
        batch = self.texts.take(rows)
        width = batch.tokens.shape[1]
        given = contextlib.nullcontext() if self.kept is None else self.kept.given(rows, width)
        with given:
            return self.base.hidden(batch.tokens, lengths=batch.lengths, plan=plan), batch

    @torch.no_grad()
    def _in_parts(self, seen: Callable[[Tensor], Tensor]) -> Tensor:
        return torch.cat([seen(rows).cpu() for rows in torch.arange(len(self.texts)).split(_BATCH)])


def largest_embeddings(
    base: Base, tokens: Int[Tensor, "row seq"], lengths: Int[Tensor, " row"]
) -> Float[Tensor, "row hidden"]:
    """Return the largest of the embeddings of each row's tokens, in each place."""
    vectors = base.inner.get_input_embeddings()(tokens.to(base.device)).float()
    read = real_tokens(tokens, lengths).to(vectors.device)
    return vectors.masked_fill(~read[..., None], float("-inf")).amax(1)


def make_pool(base: Base, tasks: Sequence[LabelledTask], config: ContinualConfig) -> tuple[Pool, tuple[Lesson, ...]]:
    """Return the pool of these tasks' texts, and the tasks as lessons in it.

    Raises DataError for a task that cannot be learnt or judged, BaseModelError for a base that cannot read so far.
    """
    names = [task.name for task in tasks]
    if len(set(names)) < len(names) or not names:
        raise DataError(f"a stream has one task at least and each once, got {', '.join(names) or 'none'}.")
    parts = [split_rows(task, config) for task in tasks]
    labels = [labels_of(task.name, part) for task, part in zip(tasks, parts, strict=True)]
    pool = pool_of(base, [[row for part in own for row in part] for own in parts], config)
    lessons, start = [], 0
    for name, own, part in zip(names, labels, parts, strict=True):
        ends = [start + sum(len(each) for each in part[: count + 1]) for count in range(3)]
        places = [torch.arange(first, last) for first, last in zip([start, *ends], ends, strict=False)]
        lessons.append(Lesson(name, own, *places))
        start = ends[-1]
    return pool, tuple(lessons)


def pool_of(base: Base, rows: Sequence[Sequence[LabelledText]], config: ContinualConfig) -> Pool:
    """Return the pool of texts, those of each task behind those of the one before."""
    encode = Encoding(base, config.text_tokens, config.template)
    texts = batch_of([encode(row.text) for own in rows for row in own])
    tasks = torch.tensor([number for number, own in enumerate(rows) for _ in own])
    return new_pool(base, texts, tasks, tuple(row.label for own in rows for row in own), config)


def new_pool(
    base: Base, texts: TextBatch, tasks: Int[Tensor, " text"], labels: tuple[str, ...], config: ContinualConfig
) -> Pool:
    """Return the pool of encoded texts; the states below the adapters are kept as far as they may."""
    places = places_of(base, adapter_config(config, len(base.blocks)))
    kept = kept_states(base, places, texts, plan=BASE_ROWS, limit_mb=config.states_mb)
    return Pool(base, Reading.of(base, text_tokens=config.text_tokens), texts, tasks, labels, kept)


def split_rows(task: LabelledTask, config: ContinualConfig) -> tuple[tuple[LabelledText, ...], ...]:
    """Return a task's train, dev and test rows: as many as asked for, in the order of their hashes."""
    learnt = tuple(sorted(task.train, key=lambda row: row.hash))[: config.train_rows or None]
    dev = min(config.dev_rows, max(1, len(learnt) // 4))
    test = tuple(sorted(task.test, key=lambda row: row.hash))[: config.test_rows or None]
    return learnt[dev:], learnt[:dev], test


def labels_of(name: str, parts: Sequence[Sequence[LabelledText]]) -> tuple[str, ...]:
    """Return the labels that can be learnt; raises DataError for one label, or for others where a task is judged."""
    learnt = tuple(sorted({row.label for row in parts[0]}))
    if len(learnt) < 2:
        raise DataError(
            f"task {name!r} has {len(learnt)} label among the {len(parts[0])} rows to learn from; a task tells two or "
            "more apart. Give it more rows (--train-rows)."
        )
    for part in parts[1:]:
        odd = sorted({row.label for row in part} - set(learnt))
        if odd:
            raise DataError(
                f"task {name!r} is judged by rows of label {odd[0]!r}, which none of its {len(parts[0])} rows to learn "
                "from has. Take such rows out, or learn from more (--train-rows)."
            )
    return learnt


class Encoding:
    """Turns a text into token ids: an encoder's with its marks, a decoder's with the template behind it."""

    def __init__(self, base: Base, text_tokens: int, template: str) -> None:
        """Check that the base has a tokenizer, reads that far, and has room for words beside the template."""
        if base.tokenizer is None:
            raise BaseModelError(f"{base.name} has no tokenizer, so it cannot read texts; add its tokenizer's files.")
        base.check_length(text_tokens)
        self.tokenizer = base.tokenizer
        self._before, _, after = marks_of(base)
        self._after = after or tuple(self._plain(template))
        self._room = text_tokens - len(self._before) - len(self._after)
        if self._room < 1:
            raise BaseModelError(
                f"--text-tokens {text_tokens} leaves no room for a text beside the {len(self._after)} tokens of "
                "--template; give more, or a shorter template."
            )

    def __call__(self, text: str) -> EncodedSample:
        """Return a text's tokens, its first as far as they fit."""
        tokens = tuple(self._plain(text))
        return EncodedSample((*self._before, *tokens[: self._room], *self._after), (), cut=len(tokens) > self._room)

    def _plain(self, text: str) -> list[int]:
        options = {"verbose": False} if getattr(self.tokenizer, "is_fast", False) else {}
        return self.tokenizer.encode(text, add_special_tokens=False, **options)
