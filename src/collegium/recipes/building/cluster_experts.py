"""Experts of discovered clusters (c-BTM) on the same budget as those of labelled domains  [gururangan2023cbtm]."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from collegium.compose import assemble
from collegium.core.cards import content_hash
from collegium.data import Corpus, Document, discover
from collegium.experts import FitConfig
from collegium.infer import TokenTable, fill_table
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.building.parts import Parts, cast_key, text_key
from collegium.recipes.building.training import train_one
from collegium.recipes.columns import Way, column
from collegium.recipes.compare import rows
from collegium.recipes.watch import Watch
from collegium.routers import cluster, fit_discovered, posterior


def cluster_rows(
    base: Base,
    clusters: Corpus,
    table: TokenTable,
    fit: FitConfig,
    parts: Parts,
    *,
    folder: Path,
    seed: int,
    watch: Watch,
) -> list[dict[str, Any]]:
    """Return the rows of a college whose domains nobody labelled: cluster top-2, cluster, posterior.

    Its experts lie in a library of their own in the run's folder.
    """
    drawn = content_hash([seed, asdict(fit), [each.hash for domain in clusters for each in domain.documents]])[:8]
    library = Library(folder / f"clusters-{drawn}", base=base, base_reference=base.name)
    for domain in clusters:
        train_one(base, library, domain, fit, folder=folder / f"checkpoints-{drawn}", watch=watch)
    if "cluster" not in library.router_names():
        documents: list[Document] = [each for domain in clusters for each in domain.documents]
        found = discover(documents, len(clusters.names), seed=seed)
        fit_discovered(library, clusters=found, experts=_owners(found.assign([d.plain for d in documents]), clusters))
    cast = assemble(base, library)
    voices = cast.voices()

    def compute() -> list[dict[str, Any]]:
        update = watch.begin("scoring cluster experts", int(table.text.lengths.sum()))
        own = fill_table(voices, table.text, voices.names, progress=lambda done, _: update(done))
        found = [Way("ensemble", cluster(), 2), Way("ensemble", cluster()), Way("ensemble", posterior())]
        columns = [column(way, cast, library, own, watch=watch) for way in found]
        return [{**row, "name": f"c-BTM, {row['name']}"} for row in rows(columns, table.text)]

    inputs = [cast_key(cast), text_key(table.text)]
    return parts.values("cluster-experts", inputs=inputs, compute=compute)


def _owners(assigned: Any, clusters: Corpus) -> list[str]:  # noqa: ANN401 - a tensor of cluster numbers
    """Return which expert speaks for each cluster found again: that of the domain most of its documents are in."""
    names = [domain.name for domain in clusters for _ in domain.documents]
    count = len(clusters.names)
    votes = {
        (place, name): sum(1 for a, n in zip(assigned.tolist(), names, strict=True) if (a, n) == (place, name))
        for place in range(count)
        for name in clusters.names
    }
    left, owners = list(clusters.names), []
    for place in range(count):
        best = max(left, key=lambda name: votes[place, name])
        owners.append(best)
        left.remove(best)
    return owners
