"""What happens to experts that are there: extended under their name, merged with the most alike; never changed."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from collegium.core.cards import content_hash
from collegium.core.files import file_hash
from collegium.core.names import is_name
from collegium.experts import Expert
from collegium.experts.algebra import average, merged_expert
from collegium.experts.algebra.delta import KINDS, Delta
from collegium.experts.algebra.expert import delta_of
from collegium.experts.algebra.similarity import delta_similarity
from collegium.library import Library, forget_prototypes, replace_expert
from collegium.recipes.growing.deciding import speakers
from collegium.recipes.keep import remove_expert, unroute


@dataclass(frozen=True)
class Merged:
    """Two experts that became one."""

    experts: tuple[str, str]
    name: str
    similarity: float
    relative_error: float

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "experts": list(self.experts),
            "into": self.name,
            "similarity": self.similarity,
            "relative_error": self.relative_error,
        }


def free_name(library: Library, wanted: str) -> str:
    """Return the name, with a number behind it where something of the library has it already."""
    taken = {*library.names(), *library.router_names(), *library.model_names()}
    tried = itertools.chain((wanted,), (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(name for name in tried if name not in taken)


def aside_name(library: Library, name: str) -> str:
    """Return what an expert that is about to be succeeded is kept as: `NAME-before`, where that is free or equal."""
    digest = library.expert_digest(name)
    wanted = f"{name}-before"
    tried = itertools.chain((wanted,), (f"{wanted}-{number}" for number in itertools.count(2)))
    return next(each for each in tried if library.expert_digest(each) == digest or free_name(library, each) == each)


def put_in_place(library: Library, successor: Expert, *, aside: str, curve: dict[str, Any]) -> None:
    """Let an expert take the place of the one of its name, which is kept as `aside`.

    The one that leaves is the same there to the bit, and is there before it leaves; killed at any point, the library
    has one or the other under the name. The routers' rows of the name leave, and are to be made anew.
    """
    name = successor.name
    if aside not in library:  # a killed run may have left it
        library.add(library[name], aside, trust_base=True)
    before = library[name].digest
    unroute(library, name)
    replace_expert(library, successor, measured=curve, keep_descendants=True)
    forget_prototypes(library, before)
    library.forget(name)


def most_alike(library: Library, names: Sequence[str]) -> tuple[str, str, float] | None:
    """Return the two experts whose changes of the base are most alike, and their cosine; None where none compare."""
    deltas = {name: delta_of(library[name]) for name in names}
    pairs = [
        (delta_similarity(deltas[one], deltas[other]), one, other)
        for one, other in itertools.combinations(sorted(deltas), 2)
        if deltas[one].kind == deltas[other].kind
    ]
    if not pairs:
        return None
    similarity, one, other = max(pairs, key=lambda pair: pair[0])
    return one, other, similarity


def merge_most_alike(library: Library) -> Merged | None:
    """Merge the two most alike experts into their average and remove them; None where no two can be merged."""
    rows = library.rows()
    names = [name for name in speakers(library) if rows[name].kind in KINDS and not library.card(name).context]
    found = most_alike(library, names)
    if found is None:
        return None
    one, other, similarity = found
    pair = [library[one], library[other]]
    wanted = f"{one}_{other}" if is_name(f"{one}_{other}") else f"merged-{content_hash([one, other])[:8]}"
    deltas = [delta_of(expert) for expert in pair]
    recipe = {"method": "average", "operands": [one, other], "similarity": similarity}
    expert, made = merged_expert(
        free_name(library, wanted), average(deltas), pair, recipe=recipe, rank=_rank_of(deltas)
    )
    library.add(expert, trust_base=True)
    for name in (one, other):
        remove_expert(library, name, keep_descendants=True)
    return Merged((one, other), expert.name, similarity, made.error)


def _rank_of(deltas: Sequence[Delta]) -> int | None:
    """Return the larger rank of two, None for rescalings."""
    return max(delta.rank for delta in deltas) or None


def payload_hashes(library: Library) -> dict[str, str]:
    """Return one sha256 for each expert, of its payload's files as they lie on disk."""
    return {
        name: content_hash(
            {file: file_hash(library.path / "experts" / name / file) for file in sorted(library.card(name).payload)}
        )
        for name in library.names()
    }
