"""Lineage: which experts were branched or merged from which."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from collegium.core.cards import ExpertCard
from collegium.library.index import Row


@dataclass(frozen=True)
class Lineage:
    """An expert and, as far as they are known, those it came from.

    found:   whether that very expert (name and payload) is still in the library.
    parents: told where the expert is first met; met again, it is only named.
    """

    name: str
    found: bool
    parents: tuple["Lineage", ...] = ()

    def steps(self) -> Iterator[tuple[int, "Lineage"]]:
        """Iterate over depth and expert: this one, then each parent with all of its own.

        >>> [(depth, each.name) for depth, each in Lineage("law", True, (Lineage("civil", False),)).steps()]
        [(0, 'law'), (1, 'civil')]
        """
        waiting: list[tuple[int, Lineage]] = [(0, self)]
        while waiting:
            depth, each = waiting.pop()
            yield depth, each
            waiting.extend((depth + 1, parent) for parent in reversed(each.parents))


@dataclass(frozen=True)
class Shown:
    """Everything a library knows about one expert."""

    card: ExpertCard
    lineage: Lineage
    descendants: tuple[str, ...]
    metrics: tuple[Mapping[str, Any], ...]
    payload_bytes: int


def lineage(rows: Mapping[str, Row], name: str) -> Lineage:
    """Return the tree of an expert's parents, theirs, and so on; no expert is followed twice."""
    born: defaultdict[int, list[Lineage]] = defaultdict(list)
    for depth, each, found in reversed(list(_walk(rows, name))):
        born[depth].append(Lineage(each, found, tuple(reversed(born.pop(depth + 1, [])))))
    return born[0][0]


def descendants(rows: Mapping[str, Row], name: str) -> tuple[str, ...]:
    """Return the experts branched or merged from this one, and from those, in order of name.

    A parent is meant by name and payload: an expert that took a removed one's name has none of its descendants. One
    whose card cannot be read any more is meant by its name alone.
    """
    children: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
    for row in rows.values():
        for parent, digest in row.parents.items() if row.parents_json != "{}" else ():
            children[parent].append((row.name, digest))
    found, heads = {name}, [name]
    while heads:
        parent = rows[heads.pop()]
        born = {child for child, digest in children[parent.name] if _is(parent, digest)} - found
        heads.extend(born)
        found |= born
    return tuple(sorted(found - {name}))


def _walk(rows: Mapping[str, Row], name: str) -> Iterator[tuple[int, str, bool]]:
    """Iterate over depth, name and whether it is found: an expert, then each parent with all of its own."""
    told: set[str] = set()
    waiting: list[tuple[int, str, str | None]] = [(0, name, None)]
    while waiting:
        depth, each, digest = waiting.pop()
        row = rows.get(each)
        found = row is not None and (digest is None or _is(row, digest))
        yield depth, each, found
        if row is not None and found and each not in told:
            told.add(each)
            parents = sorted(row.parents.items(), reverse=True)
            waiting.extend((depth + 1, parent, known) for parent, known in parents)


def _is(row: Row, digest: str) -> bool:
    """Whether this is the expert of that payload; one whose card cannot be read may be."""
    return digest == row.digest or not row.digest
