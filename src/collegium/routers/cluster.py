"""Whose cluster the words so far are near speaks."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, PrefixRouter, RouterState, Shelf, Tokenizer
from collegium.core.routing import Routing
from collegium.data import Clusters
from collegium.routers.fitted import covering_fit
from collegium.routers.held import check_experts
from collegium.routers.words import Reading

CLUSTER = "cluster"
CENTRE = "centre."
SPACE = "space."


@dataclass(frozen=True)
class Cluster:
    """w_j proportional to exp(-|h - c_j|^2 / T), h = tf-idf -> SVD -> length one of the words so far.  [c-BTM, 2.3]

    Stepped along the text: each finished word's vector is added to a running sum, so a text is embedded once, and the
    weights after token i are those of the decoded prefix without its unfinished word. Before the first known word the
    weights are equal. The mean of tf-idf vectors needs no count of words, because h has length one.

    top_k: how many experts keep weight, renormalised; of equal ones those first in the alphabet.
    fit:   the name the feature space and the experts' centres lie under in the library.

    Departure from c-BTM's public code: that raises the distance to the fourth power, this to the second, as the paper
    says.
    """

    temperature: float = 0.1
    top_k: int | None = None
    fit: str = CLUSTER

    def __post_init__(self) -> None:
        """Check temperature and top_k."""
        if not self.temperature > 0:
            raise RoutingError(f"cluster: temperature is above 0, got {self.temperature}.")
        if self.top_k is not None and self.top_k < 1:
            raise RoutingError(f"cluster: top_k keeps at least one expert, got {self.top_k}.")

    @property
    def name(self) -> str:
        """Its row in the table."""
        return CLUSTER

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        """Return the router; raises RoutingError when it was never fitted, StaleRouter when an expert has no centre."""
        check_experts(experts)
        tensors, _ = covering_fit(experts, shelf, self.fit, router=CLUSTER)
        clusters, centres = clusters_and_centres(tensors)
        if tokenizer is None:
            raise RoutingError("cluster reads words, but the base has no tokenizer; use uniform, fixed or posterior.")
        ordered = sorted(experts)
        back = torch.tensor([ordered.index(name) for name in experts])
        stacked = torch.stack([centres[name] for name in ordered])
        return ClusterRouter(experts, clusters, stacked, back, tokenizer, self.temperature, self.top_k)


def cluster(temperature: float = 0.1, top_k: int | None = None, fit: str = CLUSTER) -> Cluster:
    """Return the recipe of the cluster router.

    >>> cluster(top_k=2).temperature
    0.1
    """
    return Cluster(temperature, top_k, fit)


@dataclass(frozen=True)
class _Text:
    """One text so far: where its decoding stands, the sum of its words' vectors, its weights."""

    reading: Reading
    total: Float[Tensor, " dim"]
    weights: Float[Tensor, " expert"]


@dataclass(frozen=True, eq=False)
class ClusterRouter:
    """The cluster router over named experts; `centres` are in the alphabet's order, `back` leads to that of `experts`.

    State: one `_Text` per text.
    """

    experts: tuple[str, ...]
    clusters: Clusters
    centres: Float[Tensor, "expert dim"]
    back: Int[Tensor, " expert"]
    tokenizer: Tokenizer
    temperature: float
    top_k: int | None
    growth: Literal["exact", "refit"] = "exact"
    needs_likelihoods: bool = False

    def start(self, context: Context) -> RouterState:
        """Return the state of texts of which nothing was read."""
        nothing = torch.zeros(self.centres.shape[1])
        return [_Text(Reading(), nothing, self._weights(nothing)) for _ in range(context.batch)]

    def step(
        self,
        state: RouterState,
        tokens: Int[Tensor, "batch seq"],
        log_likelihoods: Float[Tensor, "batch seq expert"] | None,
    ) -> tuple[Routing, RouterState]:
        """Return the weights after each of these tokens, and the new state."""
        later, rows = [], []
        for text, row in zip(state, tokens.tolist(), strict=True):
            weights = []
            for token in row:
                text = self._read(text, token)
                weights.append(text.weights)
            later.append(text)
            rows.append(torch.stack(weights) if weights else text.weights.new_zeros(0, len(self.experts)))
        return Routing(self.experts, torch.stack(rows)), later

    def _read(self, text: _Text, token: int) -> _Text:
        if token < 0:
            return text
        done, reading = text.reading.read(token, self.tokenizer)
        vectors = word_vectors(self.clusters, done) if done else []
        if not vectors:
            return replace(text, reading=reading)
        total = text.total
        for vector in vectors:  # one after another, so that the sum does not depend on where tokens end
            total = total + vector
        return _Text(reading, total, self._weights(total))

    def _weights(self, total: Float[Tensor, " dim"]) -> Float[Tensor, " expert"]:
        """Return exp(-d^2 / T), normalised, of a sum of word vectors; equal weights for none."""
        length = total.norm()
        experts = len(self.experts)
        squared = (self.centres - total / length).square().sum(dim=-1) if length > 0 else torch.zeros(experts)
        weights = (-squared / self.temperature).softmax(dim=-1)
        if self.top_k is not None and self.top_k < experts:
            kept = weights.argsort(descending=True, stable=True)[: self.top_k]
            weights = torch.zeros(experts).scatter(0, kept, weights[kept])
            weights = weights / weights.sum()
        return weights[self.back]


def word_vectors(clusters: Clusters, text: str) -> list[Float[Tensor, " dim"]]:
    """Return the vector of each known word of a text, in order."""
    found = (clusters.word_vector(word) for word in clusters.tokenise(text))
    return [vector for vector in found if bool(vector.any())]


def clusters_and_centres(tensors: Mapping[str, Tensor]) -> tuple[Clusters, dict[str, Tensor]]:
    """Return the feature space of a fit, and each expert's centre."""
    space = {key.removeprefix(SPACE): each for key, each in tensors.items() if key.startswith(SPACE)}
    centres = {key.removeprefix(CENTRE): each for key, each in tensors.items() if key.startswith(CENTRE)}
    return Clusters.from_tensors(space), centres
