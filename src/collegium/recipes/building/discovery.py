"""Discovery on the same texts without their labels: how far do clusters find the domains again?"""

from typing import Any

import torch

from collegium.core.randomness import generator
from collegium.data import Corpus, Document, Domain, discover, normalised_mutual_information
from collegium.recipes.building.parts import Parts
from collegium.recipes.watch import Watch

DOCUMENTS_EACH = 300
"""At most this many training documents of a domain take part."""


def mixed_documents(corpus: Corpus, *, seed: int) -> tuple[list[Document], list[str]]:
    """Return training documents of all domains, as many of each, and the label of each."""
    documents: list[Document] = []
    labels: list[str] = []
    for domain in corpus:
        train = domain.split().train
        order = torch.randperm(len(train), generator=generator(seed, "discover", domain.name)).tolist()
        documents += [train[place] for place in order[:DOCUMENTS_EACH]]
        labels += [domain.name] * min(len(train), DOCUMENTS_EACH)
    return documents, labels


def discover_again(corpus: Corpus, parts: Parts, *, seed: int, watch: Watch) -> tuple[dict[str, Any], Corpus]:
    """Return how well clusters agree with the labels, and the clusters as domains named by their number.

    With one domain there is nothing to agree with: the first is then empty.
    """
    documents, labels = mixed_documents(corpus, seed=seed)
    many = min(max(2, len(corpus.names)), len(documents))

    def compute() -> dict[str, Any]:
        watch.say(f"discovering {many} clusters in {len(documents)} documents without labels")
        clusters = discover(documents, many, seed=seed)
        found = clusters.assign([document.plain for document in documents]).tolist()
        return {
            "assigned": found,
            "nmi": normalised_mutual_information(found, labels),
            "clusters": [
                [f"cluster-{place}", found.count(place), list(clusters.top_terms[place][:8])] for place in range(many)
            ],
        }

    key = [seed, many, [document.hash for document in documents]]
    result = parts.values("discovered", inputs=key, compute=compute)
    grouped: dict[int, list[Document]] = {}
    for document, place in zip(documents, result["assigned"], strict=True):
        grouped.setdefault(place, []).append(document)
    domains = tuple(Domain(f"cluster-{place}", tuple(grouped[place])) for place in sorted(grouped))
    agreement = {"nmi": result["nmi"], "clusters": result["clusters"]} if len(corpus.names) > 1 else {}
    return agreement, Corpus(domains)
