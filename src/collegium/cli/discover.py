"""`discover`: unlabelled text becomes balanced clusters, laid out as domains."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.core.errors import DataError
from collegium.data import (
    MINIMUM_DOCUMENTS,
    Clusters,
    Corpus,
    as_corpus,
    discover,
    found_and_labels,
    normalised_mutual_information,
    purity,
    read_domains,
    size_ratio,
    write_domains,
)
from collegium.recipes.common import Common


@dataclass(frozen=True)
class DiscoverConfig:
    """Find domains in unlabelled text: tf-idf, SVD, balanced k-means."""

    data: Positional[Path]
    """A folder or file of texts; names of domains, if any, are used to report agreement alone."""
    domains: int
    """How many clusters."""
    out: Path
    """Where the clusters go, a .jsonl file each; `train` takes the folder."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    dry_run: bool = False
    """Find and show the clusters, write nothing."""
    common: Common = field(default_factory=Common)
    """Seed and machine."""


def run_discover(config: DiscoverConfig, screen: Screen) -> Outcome:
    """Return the clusters with sizes and top terms, and how far they agree with the data's own domains."""
    config.common.apply_threads()
    if config.out.exists() and not config.dry_run:
        raise DataError(f"{config.out} exists already; choose another folder, or take that one away.")
    corpus = read_domains(config.data, columns=config.columns or None)
    screen.say(f"clustering {len(corpus.distinct):,} documents into {config.domains}")
    clusters = discover(corpus, config.domains, seed=config.common.seed)
    found = as_corpus(clusters, corpus)
    top_terms = dict(zip(clusters.names, clusters.top_terms, strict=True))
    rows = [
        {"name": domain.name, "documents": len(domain.documents), "top_terms": list(top_terms[domain.name])}
        for domain in found
    ]
    screen.table(
        ("cluster", "documents", "top terms"),
        [(row["name"], row["documents"], ", ".join(row["top_terms"])) for row in rows],
    )
    if few := too_small(found, clusters):
        screen.say(few)
    value = {"clusters": rows, **agreement(found, corpus)}
    if value["nmi"] is not None:
        screen.say(f"agreement with the data's own domains: NMI {value['nmi']:.3f}, purity {value['purity']:.3f}")
    if not config.dry_run:
        write_domains(found, config.out)
        screen.say(f"written to {config.out}")
    return Outcome({**value, "out": None if config.dry_run else str(config.out)}, rows)


def too_small(found: Corpus, clusters: Clusters) -> str:
    """Return which clusters `train` would refuse and what to do about it; nothing when there are none."""
    few = [domain.name for domain in found if len(domain.documents) < MINIMUM_DOCUMENTS]
    empty = len(clusters) - len(found)
    if not few and not empty:
        return ""
    return (
        f"{len(few)} of {len(found)} clusters have under {MINIMUM_DOCUMENTS} documents, too few for `train`, and "
        f"{empty} of the {len(clusters)} asked for came out empty: lower --domains, or give more documents."
    )


def agreement(found: Corpus, labelled: Corpus) -> dict[str, float | None]:
    """Return NMI, purity and the ratio of largest to smallest; without several labels only the last."""
    clusters, labels = found_and_labels(found, labelled)
    several = len(set(labels)) > 1
    return {
        "nmi": normalised_mutual_information(clusters, labels) if several else None,
        "purity": purity(clusters, labels) if several else None,
        "size_ratio": size_ratio([domain.name for domain in found for _ in domain.documents]),
    }


DISCOVER = Command(DiscoverConfig, run_discover, memory_flag="the number of documents")
