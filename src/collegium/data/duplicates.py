"""Documents that stand, almost the same, in two domains: MinHash finds them, their shingles settle it."""

import operator
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy

from collegium.data.documents import Corpus, Document

SIMILAR = 0.8

_DOUBLINGS = 5  # shingles of 2 ** 5 bytes, about six words
_SLOTS = 64
_BANDS = 16
_EMPTY = numpy.uint64(2**64 - 1)
_BYTES = numpy.random.Generator(numpy.random.PCG64(20230324)).integers(1, 2**63, 256, dtype=numpy.uint64)

Label = TypeVar("Label", bound=Hashable)
"""What a text belongs to: a domain, a part of one."""

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
    texts, names = [document.plain for _, document in places], [name for name, _ in places]
    found = []
    for one, other, similarity in similar_texts(texts, names, threshold=threshold):
        (first, left), (second, right) = places[one], places[other]
        found.append(NearDuplicate((first, second), (left.origin, right.origin), similarity))
    return tuple(sorted(found, key=lambda each: (-each.similarity, each.domains, each.origins)))


def similar_texts(
    texts: Sequence[str],
    labels: Sequence[Label],
    *,
    compared: Callable[[Label, Label], bool] = operator.ne,
    threshold: float = SIMILAR,
) -> list[tuple[int, int, float]]:
    """Return places of texts that share at least `threshold` of their shingles, the earlier first, and what they share.

    compared: whether texts with these two labels, the earlier one's first, are of interest; two of one label never are.

    >>> similar_texts(["Pay the rent.", "pay  the rent.", "Go."], ["law", "code", "code"])
    [(0, 1, 1.0)]
    """
    signatures = [_signature(shingle_hashes(text)) for text in texts]
    shared = (
        (one, other, _overlap(texts[one], texts[other])) for one, other in _candidates(signatures, labels, compared)
    )
    return sorted((one, other, round(similarity, 4)) for one, other, similarity in shared if similarity >= threshold)


def resemblance(one: Document, other: Document) -> float:
    """Return the share of two documents' shingles that both have (Jaccard)."""
    return _overlap(one.plain, other.plain)


def _overlap(one: str, other: str) -> float:
    left, right = numpy.unique(shingle_hashes(one)), numpy.unique(shingle_hashes(other))
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


def _candidates(
    signatures: Sequence[_Hashes], labels: Sequence[Label], compared: Callable[[Label, Label], bool]
) -> set[tuple[int, int]]:
    rows = _SLOTS // _BANDS
    pairs: set[tuple[int, int]] = set()
    for band in range(_BANDS):
        met: dict[bytes, dict[Label, int]] = {}
        for place, signature in enumerate(signatures):
            firsts = met.setdefault(signature[band * rows : (band + 1) * rows].tobytes(), {})
            # A text is compared with the first of its band under each other label.
            own = labels[place]
            pairs.update((first, place) for other, first in firsts.items() if other != own and compared(other, own))
            firsts.setdefault(own, place)
    return pairs
