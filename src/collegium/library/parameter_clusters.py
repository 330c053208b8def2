"""Model-based clustering (MBC): which experts are alike, told from their weights alone  [ostapenko2024arrow]."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import IncompatibleExpert, LibraryError
from collegium.experts import AdapterPayload
from collegium.library.derived import derive
from collegium.library.library import Library
from collegium.models import LoraWeights

if TYPE_CHECKING:
    from numpy.typing import NDArray

_UNRELATED = 0.05
"""Measured: cosines of experts that began alike were 0.88 and more, those of others 0.01 and less."""


@dataclass(frozen=True)
class ClusterSettings:
    """How experts are clustered. The defaults are the paper's, but for the number of clusters (there 10) and the seed.

    quantile: entries whose magnitude is at or below this quantile of an expert's are set to zero.
    dimensions: of the truncated SVD. starts: of k-means++.
    """

    clusters: int = 2
    quantile: float = 0.8
    dimensions: int = 64
    starts: int = 10
    seed: int = 0

    def __post_init__(self) -> None:
        """Raise LibraryError for a setting out of its bounds."""
        if self.clusters < 1 or self.dimensions < 1 or self.starts < 1:
            raise LibraryError(
                f"clusters, dimensions and starts are at least 1, got {self.clusters}, {self.dimensions} and "
                f"{self.starts}."
            )
        if not 0 <= self.quantile < 1:
            raise LibraryError(f"quantile lies in [0, 1), got {self.quantile}: at 1 every entry would be zero.")


@dataclass(frozen=True)
class ParameterClusters:
    """Experts by cluster.

    labels:     each expert's cluster, 0 up, numbered in the order in which the experts' names meet them.
    similarity: cosine of each pair of experts.
    """

    experts: tuple[str, ...]
    labels: Int[Tensor, " expert"]
    similarity: Float[Tensor, "expert other"]

    @property
    def members(self) -> tuple[tuple[str, ...], ...]:
        """The experts of each cluster."""
        labels = self.labels.tolist()
        return tuple(
            tuple(name for name, own in zip(self.experts, labels, strict=True) if own == label)
            for label in range(max(labels) + 1)
        )

    @property
    def strangers(self) -> tuple[str, ...]:
        """Experts whose weights are like no other's: they began from other first weights; their cluster is chance."""
        others = self.similarity - 2 * torch.eye(len(self.experts))
        return tuple(
            name for name, most in zip(self.experts, others.amax(1).tolist(), strict=True) if -1 < most < _UNRELATED
        )


def parameter_clusters(
    library: Library, names: Sequence[str] | None = None, *, settings: ClusterSettings | None = None
) -> ParameterClusters:
    """Return the clusters of these low-rank experts (None = all of the language), from where they are kept if they are.

    Raises LibraryError for more clusters than experts, IncompatibleExpert for experts of different ranks or layers.
    """
    settings = settings or ClusterSettings()
    adapters = low_rank_experts(library, names)
    experts = tuple(sorted(adapters))
    if settings.clusters > len(experts):
        raise LibraryError(
            f"{settings.clusters} clusters need at least as many low-rank experts, there are {len(experts)}: "
            f"{', '.join(experts) or 'none'}."
        )
    digests = [library.expert_digest(name) for name in experts]
    key = {"kind": "parameter clusters", "experts": digests, "settings": asdict(settings)}

    def compute() -> dict[str, Tensor]:
        labels, similarity = cluster_vectors(flat_weights({name: adapters[name] for name in experts}), settings)
        return {"labels": labels, "similarity": similarity}

    shapes = {"labels": (len(experts),), "similarity": (len(experts), len(experts))}
    found = derive(
        library, key, compute, fits=lambda kept: {name: tuple(each.shape) for name, each in kept.items()} == shapes
    )
    return ParameterClusters(experts, found["labels"], found["similarity"])


def low_rank_experts(library: Library, names: Sequence[str] | None = None) -> dict[str, dict[str, LoraWeights]]:
    """Return the low-rank parts of these experts, or of every language expert that is made of them.

    Raises IncompatibleExpert when one that was named is of another kind.
    """
    found = {}
    for name in library.names(task="language") if names is None else names:
        payload = library[name].payload
        if isinstance(payload, AdapterPayload) and payload.lora:
            found[name] = payload.lora
        elif names is not None:
            raise IncompatibleExpert(
                f"expert {name!r} is of kind {library.card(name).kind!r}; this is derived from low-rank experts "
                "(`lora`) alone. Leave it out of --experts."
            )
    return found


def flat_weights(adapters: Mapping[str, Mapping[str, LoraWeights]]) -> Float[Tensor, "expert weight"]:
    """Return each expert's A and B of every layer as one row; raises IncompatibleExpert where their shapes differ."""
    shapes = {
        name: {path: (part.rank, *part.shape) for path, part in parts.items()} for name, parts in adapters.items()
    }
    first = next(iter(shapes))
    odd = [name for name, each in shapes.items() if each != shapes[first]]
    if odd:
        raise IncompatibleExpert(
            f"clusters compare raw weights, so all experts have the same rank and layers; {', '.join(odd)} and "
            f"{first} differ. Choose alike ones with --experts, or train them alike."
        )
    rows = [
        torch.cat([tensor.float().flatten() for path in sorted(parts) for tensor in (parts[path].a, parts[path].b)])
        for parts in adapters.values()
    ]
    return torch.stack(rows)


def cluster_vectors(
    vectors: Float[Tensor, "expert weight"], settings: ClusterSettings
) -> tuple[Int[Tensor, " expert"], Float[Tensor, "expert other"]]:
    """Return each row's cluster, and the cosines between rows.

    Entries at or below the quantile of their row's magnitudes are zeroed; truncated SVD; rows of length 1; k-means
    (k-means++) on the rows of the matrix of cosines.  [ostapenko2024arrow; papers.md 6.1]
    Departure: the SVD is computed from the rows' inner products, which is exact and needs no matrix of all weights
    beside them.

    >>> rows = torch.tensor([[5.0, 0.1], [4.0, 0.2], [0.1, 3.0]])
    >>> cluster_vectors(rows, ClusterSettings(clusters=2, quantile=0.5))[0]
    tensor([0, 0, 1])
    """
    embedded = _reduced(_sparse(vectors, settings.quantile), settings.dimensions)
    unit = embedded / embedded.norm(dim=1, keepdim=True).clamp(min=torch.finfo(embedded.dtype).tiny)
    similarity = unit @ unit.T
    return _in_order(_means(similarity.numpy(), settings)), similarity.float()


def _sparse(vectors: Tensor, quantile: float) -> Tensor:
    magnitude = vectors.abs()
    limit = torch.from_numpy(numpy.quantile(magnitude.numpy(), quantile, axis=1))[:, None]
    return vectors.masked_fill(magnitude.double() <= limit, 0.0)


def _reduced(vectors: Tensor, dimensions: int) -> Float[Tensor, "expert dimension"]:
    """Return U S of the truncated SVD, from X X^T = U S^2 U^T."""
    inner = (vectors @ vectors.T).double()
    values, left = torch.linalg.eigh(inner)
    kept = min(dimensions, len(values))
    return (left * values.clamp(min=0).sqrt())[:, -kept:].flip(1)


def _means(rows: "NDArray[numpy.float64]", settings: ClusterSettings) -> Int[Tensor, " expert"]:
    from sklearn.cluster import KMeans

    drawn: Any = KMeans(settings.clusters, init="k-means++", random_state=settings.seed)
    drawn.set_params(n_init=settings.starts)
    return torch.from_numpy(drawn.fit_predict(rows).astype(numpy.int64))


def _in_order(labels: Int[Tensor, " expert"]) -> Int[Tensor, " expert"]:
    """Return the labels renumbered by first appearance."""
    number: dict[int, int] = {}
    return torch.tensor([number.setdefault(label, len(number)) for label in labels.tolist()])
