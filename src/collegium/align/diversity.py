"""How different texts are from each other: Distinct-n and Self-BLEU, on words.

Departure from public code of the papers, which compares raw strings and so counts characters: texts are parted into
words first.
"""

import math
from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence

from collegium.align.features import words_of
from collegium.core.errors import DataError

_ORDERS = 5
_NO_MATCH = 0.1
"""What a precision without any match counts, of one match."""


def distinct_each(texts: Sequence[str], n: int) -> list[float]:
    """Return how many different n-grams of words each text has, by its words; 0 for one of fewer than n words.

    >>> distinct_each(["a b a b", "a b c", "a"], 2)
    [0.5, 0.6666666666666666, 0.0]
    """
    said = [words_of(text) for text in texts]
    return [len(set(_grams(words, n))) / len(words) if words else 0.0 for words in said]


def self_bleu_each(texts: Sequence[str], *, orders: int = _ORDERS) -> list[float]:
    """Return the BLEU of each text against all others as references, from 0 (unlike all) to 1 (another is the same).

    BLEU [Papineni et al. 2002]: the geometric mean of the clipped precisions of n-grams up to `orders`, times the
    brevity penalty against the reference nearest in length. Orders that a text has no n-gram of are left out of its
    mean; a precision of 0 is counted as 0.1 of one match (smoothing 1 of Chen & Cherry 2014).

    Raises DataError for fewer than two texts.

    >>> self_bleu_each(["she went to the sea", "she went to the sea"])
    [1.0, 1.0]
    """
    if len(texts) < 2:
        raise DataError(f"Self-BLEU compares texts with each other; give two at least, got {len(texts)}.")
    said = [words_of(text) for text in texts]
    grams = [[_grams(words, n) for words in said] for n in range(1, orders + 1)]
    most = [_two_most(each) for each in grams]
    sizes = sorted(len(words) for words in said)
    return [_bleu(at, said, grams, most, sizes) for at in range(len(said))]


Grams = Counter[tuple[str, ...]]


def _bleu(
    at: int,
    said: Sequence[Sequence[str]],
    grams: Sequence[Sequence[Grams]],
    most: Sequence[Mapping[tuple[str, ...], tuple[int, int, int]]],
    sizes: Sequence[int],
) -> float:
    """Return the BLEU of one text against all others."""
    length, logs = len(said[at]), []
    for own, known in zip((each[at] for each in grams), most, strict=True):
        total = own.total()
        if total:
            clipped = sum(min(count, _elsewhere(known[gram], at)) for gram, count in own.items())
            logs.append(math.log(max(clipped, _NO_MATCH) / total))
    if not logs:
        return 0.0
    nearest = _nearest(length, sizes)
    penalty = min(0.0, 1 - nearest / length)
    return math.exp(penalty + sum(logs) / len(logs))


def _two_most(texts: Sequence[Grams]) -> dict[tuple[str, ...], tuple[int, int, int]]:
    """Return for each n-gram how often the text with most of it has it, which that is, and the most in any other."""
    found: dict[tuple[str, ...], tuple[int, int, int]] = {}
    for at, own in enumerate(texts):
        for gram, count in own.items():
            first, where, second = found.get(gram, (0, -1, 0))
            found[gram] = (count, at, first) if count > first else (first, where, max(second, count))
    return found


def _elsewhere(known: tuple[int, int, int], at: int) -> int:
    first, where, second = known
    return second if where == at else first


def _nearest(length: int, sizes: Sequence[int]) -> int:
    """Return the length nearest to a text's own among the others' (the shorter of two), all in order."""
    place = bisect_left(sizes, length)
    others = [*sizes[max(0, place - 1) : place], *sizes[place + 1 : place + 2]]
    return min(others, key=lambda size: (abs(size - length), size))


def _grams(words: Sequence[str], n: int) -> Grams:
    return Counter(tuple(words[at : at + n]) for at in range(len(words) - n + 1))
