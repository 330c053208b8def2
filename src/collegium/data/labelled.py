"""Labelled texts: tasks of rows with a label each, split by the hash of what they say.

A folder holds one file a task (`NAME.jsonl`, csv or parquet); `NAME.test.jsonl` beside it is its test part. Without one
a row goes to the test part if the hash of its text is 0 modulo 5.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path

from collegium.core.cards import content_hash
from collegium.core.errors import DataError
from collegium.core.names import check_name
from collegium.core.tables import nearest
from collegium.data.cells import check_unicode
from collegium.data.row_files import ROW_SUFFIXES, Row, file_rows

FIELDS = ("text", "label")
_TEST = ".test"
_FIFTH = 5


@dataclass(frozen=True)
class LabelledText:
    """A text and its label. origin: file and row, for messages."""

    text: str
    label: str
    origin: str = ""

    @cached_property
    def hash(self) -> str:
        """The sha256 of the text, which decides its part."""
        return content_hash({"text": self.text})


@dataclass(frozen=True)
class LabelledTask:
    """A task's rows to learn from and to test by. dropped: rows whose text stood there before, or stood in both."""

    name: str
    train: tuple[LabelledText, ...]
    test: tuple[LabelledText, ...]
    dropped: int = 0

    @property
    def labels(self) -> tuple[str, ...]:
        """The labels that can be learnt, in order."""
        return tuple(sorted({row.label for row in self.train}))


def labelled_task(name: str, rows: Iterable[LabelledText], test: Iterable[LabelledText] | None = None) -> LabelledTask:
    """Return a task of rows, each text once; where no test part is given the rows are split by their hashes.

    Raises DataError for a task of one label, or for an empty part.

    >>> task = labelled_task("mood", [LabelledText(f"{n} {mood}", mood) for mood in ("glad", "sad") for n in range(20)])
    >>> task.labels, len(task.train) + len(task.test)
    (('glad', 'sad'), 40)
    """
    check_name(name, what="task")
    every = list(rows)
    given = None if test is None else list(test)
    own = {row.hash: row for row in reversed(every)}
    if given is None:
        tests = {key for key in own if int(key, 16) % _FIFTH == 0}
        parts = [[row for key, row in own.items() if (key in tests) is tested] for tested in (False, True)]
    else:
        tested = {row.hash: row for row in reversed(given)}
        parts = [[row for row in own.values() if row.hash not in tested], list(tested.values())]
    learnt, judged = (tuple(part[::-1]) for part in parts)
    found = LabelledTask(name, learnt, judged, len(every) + len(given or ()) - len(learnt) - len(judged))
    if len(found.labels) < 2:
        raise DataError(
            f"task {name!r} has {len(found.labels)} label to learn ({', '.join(found.labels) or 'none'}); a task tells "
            "two or more apart."
        )
    if not judged:
        raise DataError(f"task {name!r} has no row in its test part, of {len(every)} rows; give it more.")
    return found


def read_labelled(
    place: str | Path, *, columns: Mapping[str, str] | None = None, order: Iterable[str] = ()
) -> tuple[LabelledTask, ...]:
    """Return the tasks of a folder in the order of their files' names, or in that given, or the one of a file.

    columns: our names -> the file's own (label=class). Raises DataError for what cannot be read.
    """
    root = Path(place)
    files = task_files(root)
    renamed = _renamed(columns)
    tasks = {}
    for name, (file, test) in files.items():
        tested = None if test is None else list(_rows(test, renamed))
        tasks[name] = labelled_task(name, _rows(file, renamed), tested)
    wanted = tuple(order) or tuple(tasks)
    for name in wanted:
        if name not in tasks:
            raise DataError(f"{root} has no task {name!r}. {nearest(name, tasks)}")
    if len(set(wanted)) != len(wanted):
        raise DataError(f"each task comes once, got {', '.join(wanted)}.")
    return tuple(tasks[name] for name in wanted)


def task_files(root: Path) -> dict[str, tuple[Path, Path | None]]:
    """Return task -> its file, and that of its test part."""
    if root.is_file():
        return {root.stem: (root, None)}
    if not root.is_dir():
        raise DataError(f"{root} is neither a folder nor a file; give a folder with one .jsonl per task.")
    files = sorted(path for path in root.iterdir() if path.suffix.lower() in ROW_SUFFIXES and path.is_file())
    found: dict[str, tuple[Path, Path | None]] = {}
    for path in files:
        if path.stem.endswith(_TEST):
            continue
        if path.stem in found:
            raise DataError(f"{root} has two files of task {path.stem!r}; keep one of them.")
        test = [each for each in files if each.stem == f"{path.stem}{_TEST}"]
        found[path.stem] = (path, test[0] if test else None)
    if not found:
        raise DataError(f"{root} holds no task; a task is a .jsonl, .csv or .parquet of rows with text and label.")
    return found


def _renamed(columns: Mapping[str, str] | None) -> dict[str, str]:
    for field in columns or {}:
        if field not in FIELDS:
            raise DataError(f"--columns renames {' and '.join(FIELDS)}; got {field!r}. {nearest(field, FIELDS)}")
    return {field: (columns or {}).get(field, field) for field in FIELDS}


def _rows(file: Path, columns: Mapping[str, str]) -> Iterator[LabelledText]:
    for number, row in file_rows(file, wanted=set(columns.values()), where=str(file)):
        yield _row(row, columns, origin=f"{file}:{number}")


def _row(row: Row, columns: Mapping[str, str], *, origin: str) -> LabelledText:
    missing = [own for own in columns.values() if own not in row]
    if missing:
        raise DataError(
            f"{origin}: a row has the columns {' and '.join(columns.values())}, this one lacks {missing[0]!r}; name "
            "the right one, as in --columns label=class."
        )
    text, label = (row[columns[field]] for field in FIELDS)
    if not isinstance(text, str) or not text.strip():
        raise DataError(f"{origin}: a row has a text with something in it, got {text!r:.40}.")
    if isinstance(label, bool) or not isinstance(label, str | Integral) or not str(label).strip():
        raise DataError(f"{origin}: a label is a text or a whole number, got {label!r:.40}.")
    check_unicode((text, str(label)), origin=origin)
    return LabelledText(text, str(label).strip(), origin)
