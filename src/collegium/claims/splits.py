"""What a domain is: one toy corpus split by source, by clusters of several numbers, or at random. M18.

Every split sees the same sequences once; an expert is a bigram count with one added on its part, and all are mixed by
the posterior under an equal prior.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from collegium.claims import bigrams
from collegium.claims.clusters import written
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.core.randomness import generator
from collegium.data import discover

SOURCES = 8
COUNTS = (2, 4, 8, 16)


def _run(piece: str, place: Place) -> dict[str, float]:
    del piece
    world = bigrams.draw_world(place.number, domains=SOURCES)
    train, test = torch.cat(world.train), torch.cat(world.test)
    found = {"dense": _nats([train], test), "source": _nats(world.train, test)}
    documents = written(train)
    for many in COUNTS:
        clusters = discover(documents, many, seed=place.number)
        assigned = clusters.assign([each.plain for each in documents])
        found[f"cluster {many}"] = _nats([train[assigned == number] for number in range(many)], test)
        order = torch.randperm(len(train), generator=generator(place.number, "random split", str(many)))
        found[f"random {many}"] = _nats(train[order].chunk(many), test)
    return found


def _nats(parts: Sequence[Tensor], test: Tensor) -> float:
    """Return nats a token of the posterior ensemble of experts of these parts; empty ones have none."""
    experts = [bigrams.fit(part) for part in parts if len(part)]
    return bigrams.nats(bigrams.ensemble(bigrams.score(experts, test), bigrams.uniform_prior(len(experts))))


def _measure(done: Mapping[str, PieceResult]) -> dict[str, float]:
    found = done["splits"]
    return {
        "random_minus_source": found[f"random {SOURCES}"] - found["source"],
        "random_minus_cluster": min(found[f"random {many}"] - found[f"cluster {many}"] for many in COUNTS),
        "cluster_minus_source": found[f"cluster {SOURCES}"] - found["source"],
        "fewer_minus_as_many_clusters": found["cluster 2"] - found[f"cluster {SOURCES}"],
    }


def _rows(done: Mapping[str, PieceResult]) -> list[dict[str, float | str]]:
    return [{"split": name, "nats_a_token": value} for name, value in done["splits"].items()]


TOY_SPLITS = Experiment(
    pieces=("splits",),
    run=_run,
    measure=_measure,
    rows=_rows,
    settings={"sources": SOURCES, "counts": list(COUNTS), "sequences": bigrams.SEQUENCES, "tokens": bigrams.TOKENS},
)
