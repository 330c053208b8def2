"""Removing: decided by one small file, then carried out; killed in between, the next writer carries it out.

From the moment `.removing.json` is there, its entries are gone for every reader, all of them at once.
"""

import contextlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from collegium.core.files import discard, set_aside, sweep, write_text
from collegium.core.names import is_name
from collegium.library.replacement import finish_replacements

JOURNAL_FILE = ".removing.json"


@dataclass(frozen=True)
class Removal:
    """What a removal did.

    removed: names that are gone. kept: descendants that stay; their cards still name the lost parent.
    traces:  routers that have a row of a removed expert, or learned from its texts in their first fit.
    """

    removed: tuple[str, ...]
    kept: tuple[str, ...] = ()
    traces: tuple[str, ...] = ()


def pending(root: Path) -> frozenset[str]:
    """Return the entries (`experts/NAME`, ...) whose removal is decided but not yet carried out."""
    try:
        entries = json.loads((root / JOURNAL_FILE).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):  # A text that is not UTF-8 is a ValueError, too.
        return frozenset()
    if not isinstance(entries, list):
        return frozenset()
    return frozenset(entry for entry in entries if isinstance(entry, str) and _is_entry(entry))


def remove_entries(root: Path, entries: Sequence[str]) -> None:
    """Remove entries, all or none; the library's lock must be held."""
    write_text(root / JOURNAL_FILE, json.dumps(sorted(entries)))
    # From here on they are gone, whatever happens: what fails now is done by the next writer.
    with contextlib.suppress(OSError):
        carry_out(root)


def carry_out(root: Path) -> None:
    """Carry out what a removal decided; the library's lock must be held."""
    asides = []
    for entry in sorted(pending(root)):
        with contextlib.suppress(FileNotFoundError):
            asides.append(set_aside(root / entry, root))
    (root / JOURNAL_FILE).unlink(missing_ok=True)
    for aside in asides:
        discard(aside)


def mend(root: Path) -> None:
    """Finish a removal or an exchange and delete what dead writers left; the library's lock must be held."""
    if os.path.lexists(root / JOURNAL_FILE):
        carry_out(root)
    finish_replacements(root)
    sweep(root)


def _is_entry(entry: str) -> bool:
    """Whether this is an entry of a library: a journal from anywhere must not lead out of it."""
    shelf, _, name = entry.partition("/")
    if shelf == "models":
        return name.endswith(".json") and is_name(name.removesuffix(".json"))
    return shelf in ("experts", "routers") and is_name(name)
