"""Documents that stand, almost the same, in two domains: MinHash finds them, their shingles settle it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy

from collegium.data.documents import Corpus, Document

SIMILAR = 0.8

_DOUBLINGS = 5  # shingles of 2 ** 5 bytes, about six words
_SLOTS = 64
_BANDS = 16
_EMPTY = numpy.uint64(2**64 - 1)
_BYTES = numpy.random.Generator(numpy.random.PCG64(20230324)).integers(1, 2**63, 256, dtype=numpy.uint64)

_Hashes = numpy.ndarray[tuple[int], numpy.dtype[numpy.uint64]]


@dataclass(frozen=True)
class NearDuplicate:
    """Two documents of two domains; similarity = shingles in both over shingles in either."""

    domains: tuple[str, str]
    origins: tuple[str, str]
    similarity: float


def near_duplicates(corpus: Corpus, *, threshold: float = SIMILAR) -> tuple[NearDuplicate, ...]:
    """Return pairs of documents in two domains that share at least `threshold` of their shingles, the closest first.

    A document that resembles several of another domain is paired with one of them. Upper and lower case and white
    space make no difference. Linear in the text: 64 smallest hashes stand for a document, and only documents that
    agree in four neighbouring ones are compared (of those at 0.8, two in ten thousand are missed).
    """
    places = [(domain.name, document) for domain in corpus for document in domain.documents]
    if len(corpus) < 2:
        return ()
    signatures = [_signature(shingle_hashes(document.plain)) for _, document in places]
    found = []
    for one, other in sorted(_candidates(signatures, [name for name, _ in places])):
        (first, left), (second, right) = places[one], places[other]
        similarity = resemblance(left, right)
        if similarity >= threshold:
            found.append(NearDuplicate((first, second), (left.origin, right.origin), round(similarity, 4)))
    return tuple(sorted(found, key=lambda each: (-each.similarity, each.domains, each.origins)))


def resemblance(one: Document, other: Document) -> float:
    """Return the share of two documents' shingles that both have (Jaccard)."""
    left, right = numpy.unique(shingle_hashes(one.plain)), numpy.unique(shingle_hashes(other.plain))
    both = len(numpy.intersect1d(left, right, assume_unique=True))
    return both / (len(left) + len(right) - both)


def shingle_hashes(text: str) -> _Hashes:
    """Return a hash of every 32 bytes of the text in a row; a shorter text has one, of all of it."""
    plain = " ".join(text.lower().split()).encode(errors="replace")
    plain = plain.ljust(2**_DOUBLINGS, b"\0")
    hashes = _BYTES[numpy.frombuffer(plain, dtype=numpy.uint8)]
    for doubling in range(_DOUBLINGS):
        width = 2**doubling
        # Two neighbours make one of twice the width; the odd factor and the shift spread the bits.
        hashes = (hashes[:-width] * numpy.uint64(0x9E3779B97F4A7C15)) ^ hashes[width:]
        hashes ^= hashes >> numpy.uint64(29)
    hashes *= numpy.uint64(0xBF58476D1CE4E5B9)
    return hashes ^ (hashes >> numpy.uint64(32))


def _signature(hashes: _Hashes) -> _Hashes:
    """Return the smallest hash in each of 64 parts of the range; an empty part borrows from the next that is not."""
    slots = numpy.full(_SLOTS, _EMPTY, dtype=numpy.uint64)
    numpy.minimum.at(slots, (hashes >> numpy.uint64(58)).astype(numpy.int64), hashes & numpy.uint64(2**58 - 1))
    filled = numpy.flatnonzero(slots != _EMPTY)
    following = filled[numpy.searchsorted(filled, numpy.arange(_SLOTS)) % len(filled)]
    return slots[following]


def _candidates(signatures: Sequence[_Hashes], names: Sequence[str]) -> set[tuple[int, int]]:
    rows = _SLOTS // _BANDS
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        met: dict[bytes, dict[str, int]] = {}
        for place, signature in enumerate(signatures):
            firsts = met.setdefault(signature[band * rows : (band + 1) * rows].tobytes(), {})
            pairs.update(_across(firsts, place, names[place]))
            firsts.setdefault(names[place], place)
    return pairs


def _across(firsts: dict[str, int], place: int, name: str) -> Iterator[tuple[int, int]]:
    """Yield a document's pairs with the first of its band in each other domain."""
    return ((first, place) for other, first in firsts.items() if other != name)
