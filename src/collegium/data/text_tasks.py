"""Tasks of prompts and completions: what is asked, what is answered, and the answers that compete where they are named.

A folder holds one file a task (`NAME.jsonl`, csv or parquet), split as labelled tasks are: by the hash of the prompt,
unless `NAME.test.jsonl` lies beside it. A row is {"prompt", "completion"}, with {"choices"} where one of several
answers is right, or {"text", "label"}: then it is asked for the label, and all labels of the task compete.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import chain
from numbers import Integral
from pathlib import Path

import numpy

from collegium.core.cards import content_hash
from collegium.core.errors import DataError
from collegium.core.names import check_name
from collegium.core.tables import nearest
from collegium.data.cells import check_unicode, parsed_json
from collegium.data.labelled import FIELDS as LABELLED_FIELDS
from collegium.data.labelled import LabelledText, labelled_task, task_files
from collegium.data.row_files import Row, file_rows

FIELDS = ("prompt", "completion")
CHOICES = "choices"
_ASKED = "{text}\nLabel:"
_ANSWER = " {label}"
_FIFTH = 5
_WANTED = {*FIELDS, CHOICES, *LABELLED_FIELDS}


@dataclass(frozen=True)
class TaskRow:
    """One row of a task.

    choices: the answers that compete, none where any text may be an answer. document: the hash of the row as a
    document, as cards list it. origin: file and row, for messages.
    """

    prompt: str
    completion: str
    choices: tuple[str, ...] = ()
    document: str = ""
    origin: str = ""

    @property
    def hash(self) -> str:
        """The sha256 of the prompt, which decides its part."""
        return content_hash({"text": self.prompt})


@dataclass(frozen=True)
class TextTask:
    """A task's rows to learn from and to test by. dropped: rows whose prompt stood there before, or stood in both."""

    name: str
    train: tuple[TaskRow, ...]
    test: tuple[TaskRow, ...]
    dropped: int = 0

    @property
    def choices(self) -> tuple[str, ...]:
        """The answers that compete in every row, none where rows differ in that."""
        found = {row.choices for row in (*self.train, *self.test)}
        return found.pop() if len(found) == 1 else ()

    @property
    def chooses(self) -> bool:
        """Whether every row names the answers that compete."""
        return all(row.choices for row in (*self.train, *self.test))


def text_task(name: str, rows: Iterable[TaskRow], test: Iterable[TaskRow] | None = None) -> TextTask:
    """Return a task of rows, each prompt once; where no test part is given the rows are split by their hashes.

    Raises DataError for an empty part, or for a task all of whose answers are one.

    >>> task = text_task("sum", [TaskRow(f"{n} + 1 =", f" {n + 1}") for n in range(20)])
    >>> len(task.train) + len(task.test), task.chooses
    (20, False)
    """
    check_name(name, what="task")
    every, given = list(rows), None if test is None else list(test)
    own = {row.hash: row for row in reversed(every)}
    if given is None:
        judged = [row for key, row in own.items() if int(key, 16) % _FIFTH == 0]
    else:
        judged = list({row.hash: row for row in reversed(given)}.values())
    tested = {row.hash for row in judged}
    learnt = [row for key, row in own.items() if key not in tested]
    found = TextTask(
        name, tuple(learnt[::-1]), tuple(judged[::-1]), len(every) + len(given or ()) - len(learnt) - len(judged)
    )
    for part, kept in (("to learn from", learnt), ("in its test part", judged)):
        if not kept:
            raise DataError(f"task {name!r} has no row {part}, of {len(every)} rows; give it more.")
    if len({row.completion for row in learnt}) < 2:
        raise DataError(
            f"task {name!r} has one answer to learn ({learnt[0].completion!r:.40}); a task has two or more."
        )
    return found


def asked_for_labels(name: str, rows: Iterable[LabelledText], test: Iterable[LabelledText] | None = None) -> TextTask:
    """Return a labelled task as one of prompts: each row is asked for its label; raises what `labelled_task` does.

    >>> rows = [LabelledText(f"{n} {mood}", mood) for mood in ("glad", "sad") for n in range(20)]
    >>> asked_for_labels("mood", rows).train[0].prompt.split("\\n")[1], asked_for_labels("mood", rows).choices
    ('Label:', (' glad', ' sad'))
    """
    found = labelled_task(name, rows, test)
    choices = tuple(_ANSWER.format(label=label) for label in found.labels)

    def asked(row: LabelledText) -> TaskRow:
        prompt, answer = _ASKED.format(text=row.text), _ANSWER.format(label=row.label)
        return TaskRow(prompt, answer, choices, row.hash, row.origin)

    return TextTask(name, tuple(map(asked, found.train)), tuple(map(asked, found.test)), found.dropped)


def read_tasks(place: str | Path, *, order: Iterable[str] = ()) -> tuple[TextTask, ...]:
    """Return the tasks of a folder in the order of their files' names, or in that given, or the one of a file.

    Raises DataError for what cannot be read, and for two files of one task.
    """
    tasks = {name: _read(name, file, test) for name, (file, test) in task_files(Path(place)).items()}
    wanted = tuple(order) or tuple(tasks)
    for name in wanted:
        if name not in tasks:
            raise DataError(f"{place} has no task {name!r}. {nearest(name, tasks)}")
    if len(set(wanted)) != len(wanted):
        raise DataError(f"each task comes once, got {', '.join(wanted)}.")
    return tuple(tasks[name] for name in wanted)


def _read(name: str, file: Path, test: Path | None) -> TextTask:
    parts = [list(_rows(each)) for each in (file, test) if each is not None]
    kinds = {type(row) for row in chain(*parts)}
    if len(kinds) > 1:
        raise DataError(f"{file}: rows of a task are all text and label, or all prompt and completion; these differ.")
    if kinds == {LabelledText}:
        return asked_for_labels(name, *([row for row in part if isinstance(row, LabelledText)] for part in parts))
    return text_task(name, *([row for row in part if isinstance(row, TaskRow)] for part in parts))


def _rows(file: Path) -> Iterator[TaskRow | LabelledText]:
    for number, row in file_rows(file, wanted=_WANTED, where=str(file)):
        yield _row(row, origin=f"{file}:{number}")


def _row(row: Row, *, origin: str) -> TaskRow | LabelledText:
    fields = FIELDS if set(FIELDS) <= row.keys() else LABELLED_FIELDS
    if not set(fields) <= row.keys():
        present = ", ".join(map(str, row)) or "none"
        raise DataError(f"{origin}: a row has prompt and completion, or text and label; this one has {present}.")
    first, second = (row[field] for field in fields)
    if fields == LABELLED_FIELDS and isinstance(second, Integral) and not isinstance(second, bool):
        second = str(second)
    for field, value in zip(fields, (first, second), strict=True):
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"{origin}: `{field}` is a text with something in it, got {value!r:.40}.")
    check_unicode((first, second), origin=origin)
    if fields == LABELLED_FIELDS:
        return LabelledText(first, second.strip(), origin)
    document = content_hash({"prompt": first, "completion": second})
    return _chosen(TaskRow(first, second, document=document, origin=origin), row.get(CHOICES))


def _chosen(row: TaskRow, value: object) -> TaskRow:
    """Return the row with the answers that compete; a csv file holds them as a JSON list."""
    if value is None or value == "":
        return row
    if isinstance(value, str):
        value = parsed_json(value, rule=f"{row.origin}: `choices` in a csv file is a JSON list")
    listed = value.tolist() if isinstance(value, numpy.ndarray) else value
    texts = listed if isinstance(listed, list) else []
    if len(texts) < 2 or len(set(map(str, texts))) < len(texts) or row.completion not in texts:
        raise DataError(
            f"{row.origin}: `choices` are two or more different texts, the completion among them; got {value!r:.60}."
        )
    return replace(row, choices=tuple(map(str, texts)))
