"""Discovery on the same texts without their labels: how far do clusters find the domains again?"""

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from collegium.core.randomness import generator
from collegium.data import (
    MINIMUM_DOCUMENTS,
    Clusters,
    Corpus,
    as_corpus,
    discover,
    found_and_labels,
    normalised_mutual_information,
)
from collegium.recipes.building.parts import Parts
from collegium.recipes.watch import Watch

DOCUMENTS_EACH = 300
"""At most this many training documents of a domain take part."""
_TERMS_SHOWN = 8


@dataclass(frozen=True)
class Discovery:
    """Clusters found without labels, their documents as domains, and how well both agree with the labels."""

    clusters: Clusters
    domains: Corpus
    nmi: float

    @property
    def sizes(self) -> dict[str, int]:
        """How many documents each cluster has, those that came out empty included."""
        return dict.fromkeys(self.clusters.names, 0) | {each.name: len(each.documents) for each in self.domains}

    @property
    def untrainable(self) -> str:
        """Why no expert can be trained on each cluster; nothing when one can."""
        few = [f"{name} has {size}" for name, size in self.sizes.items() if size < MINIMUM_DOCUMENTS]
        return f"a cluster needs at least {MINIMUM_DOCUMENTS} documents, and {', '.join(few)}" if few else ""

    def to_json(self) -> dict[str, Any]:
        """Return what the report shows."""
        terms = zip(self.sizes.items(), self.clusters.top_terms, strict=True)
        return {
            "nmi": self.nmi,
            "clusters": [[name, size, list(words[:_TERMS_SHOWN])] for (name, size), words in terms],
            "untrainable": self.untrainable,
        }


def sampled(corpus: Corpus, *, seed: int) -> Corpus:
    """Return training documents of all domains, at most 300 of each, drawn from the seed."""
    parts = []
    for domain in corpus:
        train = domain.split().train
        order = torch.randperm(len(train), generator=generator(seed, "discover", domain.name)).tolist()
        parts.append(replace(domain, documents=tuple(train[place] for place in order[:DOCUMENTS_EACH])))
    return Corpus(tuple(parts))


def discover_again(corpus: Corpus, parts: Parts, *, seed: int, watch: Watch) -> Discovery:
    """Return the clusters that are found in the corpus' training documents, as many as it has domains."""
    sample = sampled(corpus, seed=seed)
    documents = sample.distinct
    many = min(max(2, len(corpus)), len(documents))

    def compute() -> dict[str, Tensor]:
        watch.say(f"discovering {many} clusters in {len(documents)} documents without labels")
        return discover(sample, many, seed=seed).to_tensors()

    key = [seed, many, [document.hash for document in documents]]
    clusters = Clusters.from_tensors(parts.tensors("discovered", inputs=key, compute=compute))
    domains = as_corpus(clusters, sample)
    return Discovery(clusters, domains, normalised_mutual_information(*found_and_labels(domains, sample)))
