"""Discovery on a labelled toy corpus: claim M9, and the weights of claim M11.

A document is a sequence of a bigram language written as words; its domain is the label that discovery does not see.
"""

from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims import bigrams
from collegium.claims.bigrams import World
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.core.protocols import Context
from collegium.core.randomness import generator
from collegium.data import Clusters, Document, discover, normalised_mutual_information, size_ratio
from collegium.ops.balanced import balanced_kmeans, kmeans
from collegium.routers import cluster, fit_discovered
from collegium.testing.pico import byte_tokenizer
from collegium.testing.shelf import MemoryShelf

WORDS = tuple(f"{first}{second}{first}" for first in "bdfgk" for second in "aeiu")
"""Twenty words, one a symbol, none of them a stop word."""
_SMALLER = 8
_TEXTS = 8


def written(sequences: Tensor) -> list[Document]:
    """Return each sequence as a document of words."""
    return [Document(text=" ".join(WORDS[symbol] for symbol in row)) for row in sequences.tolist()]


def _run(piece: str, place: Place) -> dict[str, float]:
    world = bigrams.draw_world(place.number)
    train = torch.cat(world.train)
    documents = written(train)
    labels = [str(number) for number, each in enumerate(world.train) for _ in each]
    clusters = discover(documents, world.size, seed=place.number)
    assigned = clusters.assign([each.plain for each in documents])
    return {
        "nmi": normalised_mutual_information(assigned.tolist(), labels),
        "random_minus_clusters": cluster_gain(world, train, assigned),
        "size_ratio_unbalanced_minus_balanced": size_gap(clusters, documents, place.number),
    }


def cluster_gain(world: World, train: Tensor, assigned: Tensor) -> float:
    """Return nats a token that experts of clusters gain over those of random parts, both as posterior ensembles."""
    order = torch.randperm(len(train), generator=generator(world.seed, "random split"))
    test, prior = torch.cat(world.test), bigrams.uniform_prior(world.size)
    nats = []
    for parts in ([train[assigned == number] for number in range(world.size)], train[order].chunk(world.size)):
        experts = [bigrams.fit(part) for part in parts]
        nats.append(bigrams.nats(bigrams.ensemble(bigrams.score(experts, test), prior)))
    return nats[1] - nats[0]


def size_gap(clusters: Clusters, documents: list[Document], seed: int) -> float:
    """Return how much larger the ratio of largest to smallest of eight clusters is without balance."""
    points = clusters.embed([each.plain for each in documents])
    plain = kmeans(points, _SMALLER, generator=generator(seed, "k-means"))
    balanced = balanced_kmeans(points, _SMALLER, generator=generator(seed, "k-means"))
    return size_ratio(plain.labels.tolist()) - size_ratio(balanced.labels.tolist())


def cluster_weights(seed: int, temperature: float) -> Float[Tensor, "text expert"]:
    """Return the cluster router's weights at the end of some toy texts."""
    world, shelf = bigrams.draw_world(seed, sequences=20), MemoryShelf()
    names = tuple(f"expert-{number}" for number in range(world.size))
    clusters = discover(written(torch.cat(world.train)), world.size, seed=seed)
    fit_discovered(shelf, clusters=clusters, experts=names)
    tokenizer = byte_tokenizer()
    router = cluster(temperature=temperature).bind(names, shelf=shelf, tokenizer=tokenizer)
    rows = [tokenizer.encode(each.plain) for each in written(torch.cat(world.test)[:: 80 // _TEXTS])]
    tokens = torch.tensor(rows)
    state = router.start(Context(tokens[:, :1], torch.ones(len(rows), dtype=torch.long)))
    routing, _ = router.step(state, tokens, None)
    return routing.dense()[:, -1]


def _measure(done: Mapping[str, PieceResult]) -> dict[str, float]:
    return dict(done["clusters"])


TOY_CLUSTERS = Experiment(pieces=("clusters",), run=_run, measure=_measure)
