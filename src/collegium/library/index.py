"""The index: what the experts' cards say, kept in one SQLite file so that thousands are listed at once.

It is a cache. The folders are the truth: the first look compares the cards' stamps (inode, size, time of change) with
the index and reads those that differ; later looks do so when a folder came, went or was replaced. An index that is
missing, damaged, locked or not writable costs time, nothing else.
"""

import contextlib
import json
import os
import sqlite3
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

from collegium.core.errors import CollegiumError
from collegium.core.names import is_name
from collegium.experts import payload_digest, read_card

INDEX_FILE = "index.sqlite"
WAIT_SECONDS = 5.0
"""How long another process may hold the index before it is done without."""

_SCHEMA = 1
_CARD = "card.json"


class Row(NamedTuple):
    """One expert, in short; a tuple, because ten thousand are made at once.

    stamp:   inode, size and time of change of its card; what the index is compared by.
    digest:  the checksum of its payload. parents: name -> checksum.
    problem: why its card cannot be read, empty for a sound one.
    """

    name: str
    stamp: str
    kind: str = ""
    task: str = ""
    domain: str = ""
    tokens_seen: int = 0
    trained_parameters: int = 0
    digest: str = ""
    parents_json: str = "{}"
    problem: str = ""

    @property
    def parents(self) -> dict[str, str]:
        """Names and payload checksums of the experts it was branched or merged from."""
        return json.loads(self.parents_json)


class Index:
    """The rows of one library's experts, as fresh as the folders at every call of `rows`."""

    def __init__(self, root: Path, *, writable: bool) -> None:
        """Remember where; nothing is read yet."""
        self._folder = root / "experts"
        self._path = root / INDEX_FILE
        self._writable = writable
        self._rows: dict[str, Row] | None = None
        self._some: dict[str, Row] = {}
        self._seen: object = None

    def rows(self) -> Mapping[str, Row]:
        """Return name -> row of every expert there is now, in order of name."""
        seen = _glance(self._folder)
        if self._rows is not None and seen == self._seen:
            return self._rows
        known = self._load() if self._rows is None else self._rows
        stamps = _stamps(self._folder)
        changed = [name for name, stamp in stamps.items() if not _is_current(known.get(name), stamp)]
        gone = [name for name in known if name not in stamps]
        fresh = {name: _read_row(self._folder / name, stamps[name]) for name in changed}
        self._rows = {name: fresh.get(name) or known[name] for name in stamps}
        self._store(fresh.values(), gone)
        self._seen = None if any(row.problem for row in fresh.values()) else seen
        return self._rows

    def row(self, name: str) -> Row | None:
        """Return the row of one expert as it is now, without a look at the others; None when there is none."""
        if not is_name(name) or not (self._folder / name).is_dir():
            return None
        stamp = _stamp(str(self._folder / name))
        known = self._known(name)
        if known is None or not _is_current(known, stamp):
            known = self._some[name] = _read_row(self._folder / name, stamp)
            if self._rows is not None:
                self._rows, self._seen = {**self._rows, name: known}, None
            self._store([known], [])
        return known

    def drop(self, names: Iterable[str]) -> None:
        """Forget experts that were removed, without a look at the others."""
        gone = [name for name in names if not os.path.lexists(self._folder / name)]
        for name in gone:
            self._some.pop(name, None)
        if self._rows is not None:
            self._rows, self._seen = {name: row for name, row in self._rows.items() if name not in gone}, None
        self._store([], gone)

    def _known(self, name: str) -> Row | None:
        if self._rows is not None:
            return self._rows.get(name)
        if name not in self._some:
            self._some.update(self._load(name))
        return self._some.get(name)

    def rebuild(self) -> Mapping[str, Row]:
        """Forget everything and read every card again."""
        self._rows, self._some, self._seen = {}, {}, None
        if self._writable:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
        return self.rows()

    def _load(self, name: str | None = None) -> dict[str, Row]:
        """Return the rows that were kept, or the one of a name."""
        wanted, given = ("", ()) if name is None else (" WHERE name = ?", (name,))
        if not self._path.is_file():
            return {}
        try:
            with contextlib.closing(
                sqlite3.connect(f"{self._path.as_uri()}?mode=ro", uri=True, timeout=WAIT_SECONDS)
            ) as database:
                if database.execute("PRAGMA user_version").fetchone() != (_SCHEMA,):
                    return {}
                return {row[0]: Row(*row) for row in database.execute(f"SELECT {_COLUMNS} FROM experts{wanted}", given)}
        except (sqlite3.Error, TypeError):
            return {}

    def _store(self, rows: Iterable[Row], gone: Iterable[str]) -> None:
        """Write what can be trusted later: a problem may pass, so it is looked into again at each look."""
        rows, gone = [row for row in rows if not row.problem], list(gone)
        if not self._writable or not (rows or gone):
            return
        try:
            self._update(rows, gone)
        except sqlite3.OperationalError:
            return  # Locked, full or read-only: the next look will do it.
        except (sqlite3.DatabaseError, OSError):
            with contextlib.suppress(OSError, sqlite3.Error):
                self._path.unlink(missing_ok=True)
                self._update([row for row in (self._rows or {}).values() if not row.problem], [])

    def _update(self, rows: list[Row], gone: list[str]) -> None:
        with contextlib.closing(sqlite3.connect(self._path, timeout=WAIT_SECONDS)) as database, database:
            database.execute("PRAGMA synchronous = OFF")  # A cache need not outlive a loss of power.
            if database.execute("PRAGMA user_version").fetchone() != (_SCHEMA,):
                database.execute("DROP TABLE IF EXISTS experts")
                database.execute(f"CREATE TABLE experts ({_COLUMNS}, PRIMARY KEY (name))")
                database.execute(f"PRAGMA user_version = {_SCHEMA}")
            database.executemany("DELETE FROM experts WHERE name = ?", [(name,) for name in gone])
            places = ", ".join("?" * len(Row._fields))
            database.executemany(f"INSERT OR REPLACE INTO experts VALUES ({places})", rows)


_COLUMNS = ", ".join(Row._fields)


def _is_current(row: Row | None, stamp: str) -> bool:
    """Whether a row needs no new look at its card."""
    return row is not None and row.stamp == stamp and not row.problem


def _glance(folder: Path) -> object:
    """Return what changes when an expert comes, goes or is replaced, without a look at any card."""
    try:
        changed = os.stat(folder).st_mtime_ns
        with os.scandir(folder) as entries:
            return changed, {entry.name: entry.inode() for entry in entries}
    except FileNotFoundError:
        return None, {}


def _stamps(folder: Path) -> dict[str, str]:
    try:
        with os.scandir(folder) as entries:
            found = {entry.name: _stamp(entry.path) for entry in entries if is_name(entry.name) and entry.is_dir()}
            return dict(sorted(found.items()))
    except FileNotFoundError:
        return {}


def _stamp(folder: str) -> str:
    try:
        stat = os.stat(f"{folder}/{_CARD}")
    except OSError:
        return "no card"
    return f"{stat.st_ino} {stat.st_size} {stat.st_mtime_ns}"


def _read_row(folder: Path, stamp: str) -> Row:
    try:
        card = read_card(folder)
    except (CollegiumError, OSError) as error:
        return Row(folder.name, stamp, problem=str(error))
    return Row(
        folder.name,
        stamp,
        kind=card.kind,
        task=card.task,
        domain=card.domain or "",
        tokens_seen=card.tokens_seen,
        trained_parameters=card.trained_parameters,
        digest=payload_digest(card.payload),
        parents_json=json.dumps(dict(card.parents), sort_keys=True),
    )
