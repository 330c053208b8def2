"""Domains of tasks from pinned packages, written as a folder like any user's: a jsonl a task, and one to test by."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.files import staged_folder, write_new
from collegium.core.parcels import Progress, fetch_parcel
from collegium.core.tables import nearest
from collegium.data.reading import SOURCES_FILE, read_sources
from collegium.data.standard_library import library_folder, library_modules, library_source
from collegium.data.task_sources import TASK_SOURCES, TaskSource
from collegium.data.task_sources.rows import SourceRow

TASK_DOMAINS = tuple(TASK_SOURCES)


def pull_tasks(folder: str | Path, domain: str, *, progress: Progress | None = None) -> Path:
    """Return the folder of a domain's tasks, fetched and written on the first call; later calls find it there.

    Rows of one chat, play or module are all to learn from, or all to test by. The folder appears whole or not at all.

    Raises DataError for an unknown domain, or when something else lies in that folder; ResourceError when a package
    cannot be fetched or is not the pinned one.
    """
    target, say = Path(folder), progress or (lambda line: None)
    if domain not in TASK_SOURCES:
        raise DataError(f"there is no domain of tasks {domain!r}. {nearest(domain, TASK_DOMAINS)}")
    chosen = TASK_SOURCES[domain]
    if target.exists():
        if sorted(read_sources(target / SOURCES_FILE)) == sorted(chosen.names):
            return target
        raise DataError(f"{target} exists and does not hold the tasks of {domain}; choose another, or take it away.")
    place = library_folder() if chosen.parcel is None else fetch_parcel(chosen.parcel, say)
    tasks = chosen.tasks(place)
    say(f"writing {', '.join(tasks)} to {target}")
    try:
        with staged_folder(target) as aside:
            for name, rows in tasks.items():
                for ending, tested in (("", False), (".test", True)):
                    _write(aside / f"{name}{ending}.jsonl", [row for row in rows if row.tested is tested])
            source = asdict(_source(chosen))
            content = {"domains": {name: [source] for name in tasks}}
            write_new(aside / SOURCES_FILE, (json.dumps(content, indent=2) + "\n").encode())
    except FileExistsError:
        say(f"another process wrote {target} first")
    return target


def _write(path: Path, rows: Sequence[SourceRow]) -> None:
    if not rows:
        raise DataError(f"{path.stem}: the texts give no row of this task. Give more of them.")
    lines = [json.dumps(row.to_json(), ensure_ascii=False) for row in rows]
    write_new(path, ("\n".join(lines) + "\n").encode())


def _source(chosen: TaskSource) -> Source:
    if chosen.parcel is None:
        return library_source(library_modules(library_folder()))
    parcel = chosen.parcel
    return Source(f"{parcel.package} {parcel.version} ({parcel.file})", parcel.licence, parcel.sha256)
