"""Words of a text as hashed, weighted counts: the classifier's feature space."""

import math
import re
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.randomness import generator

BUCKETS = 1 << 15
_LETTERS = 6
"""About how long a word is, the space after it counted."""
_WORD = re.compile(r"\S+")
_PIECE = re.compile(r"\w+|[^\w\s]")


@dataclass(frozen=True)
class Sparse:
    """One text: which buckets its words fall into, and how much each weighs."""

    index: Int[Tensor, " feature"]
    weight: Float[Tensor, " feature"]
    words: int


def count_features(text: str) -> Sparse:
    """Return how often words and signs occur, as 1 + log count, unscaled.

    Hashed, so that the words of an expert added later have places of their own without a new vocabulary.

    >>> count_features("To be, or not to be").words
    7
    """
    pieces = _PIECE.findall(text.lower())
    counts = Counter(zlib.crc32(piece.encode()) % BUCKETS for piece in pieces)
    index = sorted(counts)
    weight = [1 + math.log(counts[bucket]) for bucket in index]
    return Sparse(torch.tensor(index, dtype=torch.long), torch.tensor(weight), len(pieces))


def inverse_frequency(texts: Sequence[Sparse]) -> Float[Tensor, " bucket"]:
    """Return log((1 + texts) / (1 + texts with the bucket)) + 1."""
    seen = torch.zeros(BUCKETS)
    for text in texts:
        seen[text.index] += 1
    return ((1 + len(texts)) / (1 + seen)).log() + 1


def scaled(text: Sparse, inverse: Float[Tensor, " bucket"]) -> Float[Tensor, " feature"]:
    """Return the tf-idf weights of a text, of length one."""
    weight = text.weight * inverse[text.index]
    return weight / weight.norm().clamp(min=1e-12)


def excerpts(texts: Sequence[str], *, words: Sequence[int], most: int, seed: int) -> list[str]:
    """Return `most` excerpts of the texts, of these lengths in turn, at places drawn by the seed.

    The lengths are those a router will see: a prompt of a line as well as a page. At a text's end they are shorter.

    >>> excerpts(["to be or not to be"], words=(2, 1), most=3, seed=0)
    ['not to', 'be', 'be or']
    """
    draw = generator(seed, "excerpts")
    kept = [text for text in texts if not text.isspace() and text]
    chosen: list[str] = []
    for turn in range(most if kept else 0):
        text = kept[int(torch.randint(len(kept), (1,), generator=draw))]
        length = words[turn % len(words)]
        last = max(len(text) - _LETTERS * length, 0)
        chosen.append(_words_from(text, int(torch.randint(last + 1, (1,), generator=draw)), length))
    return chosen


def _words_from(text: str, place: int, length: int) -> str:
    """Return this many words from the first that begins at or after a place."""
    inside = place > 0 and not text[place - 1].isspace()
    found = list(islice(_WORD.finditer(text, place), length + inside))[inside:]
    return text[found[0].start() : found[-1].end()] if found else ""
