"""Lineage: which experts were branched or merged from which."""

from collections.abc import Mapping
from dataclasses import dataclass

from collegium.library.index import Row


@dataclass(frozen=True)
class Lineage:
    """An expert and, as far as they are known, those it came from.

    found: whether that very expert (name and payload) is still in the library.
    """

    name: str
    found: bool
    parents: tuple["Lineage", ...] = ()


def lineage(rows: Mapping[str, Row], name: str, *, digest: str | None = None) -> Lineage:
    """Return the tree of an expert's parents, theirs, and so on; a card that names itself is not followed."""
    return _walk(rows, name, digest, frozenset())


def descendants(rows: Mapping[str, Row], name: str) -> tuple[str, ...]:
    """Return the experts branched or merged from this one, and from those, in order of name.

    A parent is meant by name and payload: an expert that took a removed one's name has none of its descendants.
    """
    found: set[str] = set()
    heads = [name]
    while heads:
        parent = heads.pop()
        digest = rows[parent].digest
        born = {row.name for row in rows.values() if row.parents_json != "{}" and row.parents.get(parent) == digest}
        heads.extend(born - found)
        found |= born
    return tuple(sorted(found - {name}))


def _walk(rows: Mapping[str, Row], name: str, digest: str | None, above: frozenset[str]) -> Lineage:
    row = rows.get(name)
    if row is None or digest not in (None, row.digest) or name in above:
        return Lineage(name, found=row is not None and digest in (None, row.digest))
    parents = sorted(row.parents.items())
    return Lineage(name, found=True, parents=tuple(_walk(rows, each, known, above | {name}) for each, known in parents))
