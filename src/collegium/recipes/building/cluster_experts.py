"""Experts of discovered clusters (c-BTM) on the same budget as those of labelled domains  [gururangan2023cbtm]."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from collegium.compose import assemble
from collegium.core.cards import content_hash
from collegium.experts import FitConfig
from collegium.infer import TokenTable, fill_table
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.building.discovery import Discovery
from collegium.recipes.building.parts import Parts, cast_key, text_key
from collegium.recipes.building.training import train_one
from collegium.recipes.columns import Way, column
from collegium.recipes.compare import rows
from collegium.recipes.watch import Watch
from collegium.routers import cluster, fit_discovered, posterior


def cluster_rows(
    base: Base,
    discovered: Discovery,
    table: TokenTable,
    fit: FitConfig,
    parts: Parts,
    *,
    folder: Path,
    seed: int,
    watch: Watch,
) -> list[dict[str, Any]]:
    """Return the rows of a college whose domains nobody labelled: cluster top-2, cluster, posterior.

    Its experts lie in a library of their own in the run's folder. There are none when a cluster is too small to train
    an expert on.
    """
    if discovered.untrainable:
        watch.say(f"no cluster experts to compare with: {discovered.untrainable}")
        return []
    clusters = discovered.domains
    drawn = content_hash([seed, asdict(fit), [each.hash for domain in clusters for each in domain.documents]])[:8]
    library = Library(folder / f"clusters-{drawn}", base=base, base_reference=base.name)
    for domain in clusters:
        train_one(base, library, domain, fit, folder=folder / f"checkpoints-{drawn}", watch=watch)
    if "cluster" not in library.router_names():
        fit_discovered(library, clusters=discovered.clusters, experts=clusters.names)
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
