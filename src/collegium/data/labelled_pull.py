"""Labelled tasks from pinned packages, written as a folder like any user's: one jsonl a task."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.files import staged_folder, write_new
from collegium.core.parcels import Progress, fetch_parcel
from collegium.core.tables import nearest
from collegium.data.labelled import LabelledText
from collegium.data.labelled_hub import read_labelled_hub
from collegium.data.labelled_sources import LABELLED_SOURCES
from collegium.data.reading import SOURCES_FILE, read_sources

LABELLED_TASKS = tuple(LABELLED_SOURCES)


def pull_labelled(folder: str | Path, *, tasks: Iterable[str] | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of labelled tasks, fetched and written on the first call; later calls find it there.

    The packages stay in the user's cache, so that a later call works offline. The folder appears whole or not at all.

    Raises DataError for an unknown task, or when something else lies in that folder; ResourceError when a package
    cannot be fetched or is not the pinned one.
    """
    target, say = Path(folder), progress or (lambda line: None)
    names = tuple(sorted(set(LABELLED_TASKS if tasks is None else tasks)))
    for name in names:
        if name not in LABELLED_SOURCES:
            raise DataError(f"there is no labelled task {name!r}. {nearest(name, LABELLED_TASKS)}")
    if not names:
        raise DataError(f"at least one task is wanted, got none. Known: {', '.join(LABELLED_TASKS)}.")
    if target.exists():
        if sorted(read_sources(target / SOURCES_FILE)) == list(names):
            return target
        raise DataError(f"{target} exists and does not hold {', '.join(names)}; choose another, or take it away.")
    archives = {name: fetch_parcel(LABELLED_SOURCES[name].parcel, say) for name in names}
    rows = {name: list(LABELLED_SOURCES[name].rows(archives[name])) for name in names}
    _write(target, rows, {name: [asdict(_source(name))] for name in names}, say=say)
    say("News, reviews and tweets are for research of your own: do not pass them on.")
    return target


def pull_labelled_hub(
    folder: str | Path, name: str, *, rows: int | None = None, progress: Progress | None = None
) -> Path:
    """Return the folder of a paper's tasks from the Hugging Face hub, written on the first call.

    rows: at most so many of each task. Raises DataError when something else lies there; see `read_labelled_hub`.
    """
    target, say = Path(folder), progress or (lambda line: None)
    if target.exists():
        raise DataError(f"{target} exists; choose another folder for the tasks of {name}, or take it away.")
    found, sources = read_labelled_hub(name, rows=rows, progress=say)
    _write(target, found, {task: [asdict(each) for each in sources] for task in found}, say=say)
    return target


def _write(
    target: Path, tasks: Mapping[str, Sequence[LabelledText]], sources: Mapping[str, Any], *, say: Progress
) -> None:
    """Write a file a task and where they come from; the folder appears whole or not at all."""
    say(f"writing {', '.join(tasks)} to {target}")
    try:
        with staged_folder(target) as aside:
            for name, rows in tasks.items():
                lines = [json.dumps({"text": row.text, "label": row.label}, ensure_ascii=False) for row in rows]
                write_new(aside / f"{name}.jsonl", ("\n".join(lines) + "\n").encode())
            write_new(aside / SOURCES_FILE, (json.dumps({"domains": dict(sources)}, indent=2) + "\n").encode())
    except FileExistsError:
        say(f"another process wrote {target} first")


def _source(name: str) -> Source:
    parcel = LABELLED_SOURCES[name].parcel
    return Source(f"{parcel.package} {parcel.version} ({parcel.file})", parcel.licence, parcel.sha256)
