"""Fitting the cluster router: a feature space once, then one centre per expert that touches no other."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Shelf
from collegium.core.tables import nearest
from collegium.data import Clusters
from collegium.routers.cluster import CENTRE, CLUSTER, SPACE, clusters_and_centres
from collegium.routers.fitted import Fit, change_fit, fit_card, with_row, without_row


def fit_cluster(
    shelf: Shelf, name: str = CLUSTER, *, clusters: Clusters, documents_by_expert: Mapping[str, Sequence[str]]
) -> None:
    """Keep the feature space of these clusters, and as each expert's centre the mean embedding of its documents.

    For labelled domains; `fit_discovered` keeps the discovered centres themselves.
    """
    centres = {expert: _centre(clusters, expert, texts) for expert, texts in documents_by_expert.items()}
    _keep(shelf, name, _space(clusters), centres)


def fit_discovered(shelf: Shelf, name: str = CLUSTER, *, clusters: Clusters, experts: Sequence[str]) -> None:
    """Keep discovered clusters; `experts` names the expert of each, in the clusters' order."""
    if len(experts) != len(clusters.centres) or len(set(experts)) != len(experts):
        raise RoutingError(f"cluster: {len(clusters.centres)} clusters need as many experts, got {list(experts)}.")
    centres = dict(zip(experts, clusters.centres.float().unbind(), strict=True))
    _keep(shelf, name, _space(clusters), centres)


def grow_cluster(shelf: Shelf, name: str = CLUSTER, *, expert: str, documents: Sequence[str]) -> None:
    """Write one expert's centre, in the feature space of the first fit; no other centre changes."""

    def add(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        clusters, _ = clusters_and_centres(tensors)
        return {**tensors, f"{CENTRE}{expert}": _centre(clusters, expert, documents)}, with_row(card, shelf, expert)

    change_fit(shelf, name, add, router=CLUSTER)


def shrink_cluster(shelf: Shelf, name: str = CLUSTER, *, expert: str) -> None:
    """Drop one expert's centre; no other changes. What it added to the feature space stays until a new fit."""

    def drop(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        if expert not in card["experts"]:
            raise RoutingError(f"cluster: the fit has no expert {expert!r}. {nearest(expert, card['experts'])}")
        return {key: each for key, each in tensors.items() if key != f"{CENTRE}{expert}"}, without_row(card, expert)

    change_fit(shelf, name, drop, router=CLUSTER)


def _space(clusters: Clusters) -> dict[str, Tensor]:
    return {f"{SPACE}{key}": each for key, each in clusters.to_tensors().items()}


def _centre(clusters: Clusters, expert: str, texts: Sequence[str]) -> Float[Tensor, " dim"]:
    """Return the mean of the texts' embeddings, each of length one; texts without a known word count nothing."""
    embeddings = clusters.embed(texts)
    known = embeddings.any(dim=1)
    if not bool(known.any()):
        raise RoutingError(f"cluster: no document of expert {expert!r} has a word that the feature space knows.")
    return embeddings[known].mean(dim=0).float()


def _keep(shelf: Shelf, name: str, space: Mapping[str, Tensor], centres: Mapping[str, Tensor]) -> None:
    rows = {f"{CENTRE}{expert}": centre.clone() for expert, centre in centres.items()}
    shelf.save_router(name, {**space, **rows}, fit_card(CLUSTER, shelf, experts=centres, first=tuple(centres)))
