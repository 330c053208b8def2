"""Clusters of documents: a space of words, and centres in it."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from collegium.core.errors import DataError
from collegium.ops.balanced import squared_distances

_WORD = re.compile(r"\b(?!\d)\w\w+")
_TENSORS = ("idf", "components", "centres")


def tokenise(text: str) -> list[str]:
    """Return a text's words as tf-idf counts them: two letters at least, lower case, none that begins with a digit.

    >>> tokenise("A rent of 12,000 pounds")
    ['rent', 'of', 'pounds']
    """
    return _WORD.findall(text.lower())


@dataclass(frozen=True, eq=False)
class Clusters:
    """Cluster centres in the space tf-idf -> SVD -> length one  [c-BTM, papers.md 2.3].

    embed(text) is the sum of its words' vectors, scaled to length one: tf-idf's own scaling is a number that cancels,
    so a text can be embedded by a running sum as it is read.

    terms:      the vocabulary. idf: each term's weight. components: the SVD's right vectors.
    centres:    means of the embeddings of each cluster's documents.
    top_terms:  each cluster's most telling terms, best first.
    """

    terms: tuple[str, ...]
    idf: Float[Tensor, " word"]
    components: Float[Tensor, "dim word"]
    centres: Float[Tensor, "cluster dim"]
    top_terms: tuple[tuple[str, ...], ...]

    def __len__(self) -> int:
        """Count the clusters."""
        return len(self.centres)

    @property
    def names(self) -> tuple[str, ...]:
        """What the clusters are called as domains: `cluster-0`, `cluster-1`, ..."""
        width = len(str(len(self) - 1))
        return tuple(f"cluster-{place:0{width}d}" for place in range(len(self)))

    @cached_property
    def _places(self) -> dict[str, int]:
        return {term: place for place, term in enumerate(self.terms)}

    @cached_property
    def _vectors(self) -> Float[Tensor, "word dim"]:
        return (self.components * self.idf).t().contiguous()

    def tokenise(self, text: str) -> list[str]:
        """Return a text's words, known or not."""
        return tokenise(text)

    def word_vector(self, word: str) -> Float[Tensor, " dim"]:
        """Return what one occurrence of a word adds: idf times its components; zeros for an unknown word."""
        place = self._places.get(word)
        return self._vectors.new_zeros(self._vectors.shape[1]) if place is None else self._vectors[place]

    def embed(self, texts: Sequence[str]) -> Float[Tensor, "text dim"]:
        """Return the texts' embeddings, of length one; zeros for a text without a known word."""
        rows = [self._sum(Counter(tokenise(text))) for text in texts]
        sums = torch.stack(rows) if rows else self._vectors.new_zeros(0, self._vectors.shape[1])
        return torch.nn.functional.normalize(sums, dim=1)

    def _sum(self, words: Counter[str]) -> Float[Tensor, " dim"]:
        known = [(self._places[word], count) for word, count in words.items() if word in self._places]
        if not known:
            return self._vectors.new_zeros(self._vectors.shape[1])
        places, counts = zip(*known, strict=True)
        return torch.tensor(counts, dtype=self._vectors.dtype) @ self._vectors[list(places)]

    def assign(self, texts: Sequence[str]) -> Int[Tensor, " text"]:
        """Return the nearest centre of each text; the first cluster for a text without a known word."""
        embeddings = self.embed(texts)
        nearest = squared_distances(embeddings, self.centres).argmin(dim=1)
        return torch.where(embeddings.any(dim=1), nearest, torch.zeros_like(nearest))

    def to_tensors(self) -> dict[str, Tensor]:
        """Return tensors that safetensors can keep; words are JSON in bytes."""
        tensors = {name: getattr(self, name).contiguous() for name in _TENSORS}
        return {**tensors, "terms": _to_bytes(self.terms), "top_terms": _to_bytes(self.top_terms)}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Clusters":
        """Return the clusters that `to_tensors` wrote; raises DataError when a part is missing or does not fit."""
        try:
            idf, components, centres = (tensors[name].float() for name in _TENSORS)
            terms = tuple(json.loads(bytes(tensors["terms"].tolist())))
            top_terms = tuple(tuple(each) for each in json.loads(bytes(tensors["top_terms"].tolist())))
        except (KeyError, ValueError, TypeError) as error:
            raise DataError(f"these tensors are no clusters ({error!r}); discover or fit again.") from error
        if not (idf.shape == (len(terms),) == components.shape[1:] and centres.shape[1:] == components.shape[:1]):
            raise DataError("these tensors are no clusters: words, components and centres differ in size; fit again.")
        return cls(terms, idf, components, centres, top_terms)


def _to_bytes(value: Sequence[object]) -> UInt8[Tensor, " byte"]:
    return torch.frombuffer(bytearray(json.dumps(value, ensure_ascii=False).encode()), dtype=torch.uint8)
