"""Training for the small-scale claims: experts of domains, of random parts and of clusters, and dense models.

Every family is given the same tokens in total, the same chunks of text, the same number of learning rates to choose
from on held-out text, and keeps its best held-out state.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from collegium.claims.experiment import Place
from collegium.claims.small_setup import Materials, SmallSettings, chunks, with_token
from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.core.randomness import generator
from collegium.data import Document, discover, normalised_mutual_information
from collegium.experts import Trained, fit_documents
from collegium.library import Library
from collegium.models import Base

FAMILIES = ("experts", "random", "clusters", "dense", "dense-wide", "dense-token")
RATE_SEED = 0
"""The one seed on which learning rates are chosen."""


@dataclass(frozen=True)
class Share:
    """What one model learns from and is chosen by, and how many experts' steps it is given."""

    name: str
    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    parts: int


def member_names(family: str, domains: Sequence[str]) -> tuple[str, ...]:
    """Return the names of a family's models."""
    if family == "experts":
        return tuple(domains)
    if family in ("random", "clusters"):
        return tuple(f"{family}-{number}" for number in range(len(domains)))
    return (family,)


@dataclass(frozen=True)
class Assigned:
    """The part of each training passage and of each document to choose by, in the order of `Materials`."""

    train: tuple[int, ...] = ()
    dev: tuple[int, ...] = ()

    def part(self, number: int, found: Materials) -> tuple[list[Document], list[Document]]:
        """Return one part's passages and its documents to choose by."""
        return _of(number, found.all_passages, self.train), _of(number, found.all_dev, self.dev)


def _of(number: int, documents: Sequence[Document], parts: Sequence[int]) -> list[Document]:
    return [each for each, part in zip(documents, parts, strict=True) if part == number]


def find_clusters(found: Materials, seed: int) -> tuple[Assigned, float]:
    """Return the nearest discovered cluster of every text, and how clusters agree with the domains of the passages."""
    labels = [name for name, domain in found.passages.items() for _ in domain]
    clusters = discover(found.all_passages, len(found.passages), seed=seed)
    train, dev = (
        tuple(clusters.assign([each.plain for each in documents]).tolist())
        for documents in (found.all_passages, found.all_dev)
    )
    return Assigned(train, dev), normalised_mutual_information(train, labels)


def family_share(
    family: str, name: str, found: Materials, *, tokenizer: Tokenizer, settings: SmallSettings, assigned: Assigned
) -> Share:
    """Return what the model `name` of a family learns from; raises DataError for a cluster too small to hold back."""

    def cut(documents: Sequence[Document]) -> tuple[Document, ...]:
        return chunks(documents, tokenizer, tokens=settings.chunk)

    if family == "experts":
        return Share(name, cut(found.passages[name]), cut(found.dev[name]), 1)
    parts = len(found.passages)
    if family in ("random", "clusters"):
        number = int(name.rsplit("-", 1)[1])
        train, dev = assigned.part(number, found)
        if not train or not dev:
            raise DataError(f"{name} has {len(train)} passages and {len(dev)} to choose by; it needs both.")
        return Share(name, cut(train), cut(dev), 1)
    everything = found.all_passages
    if family == "dense-token":
        train = [each for domain, texts in found.passages.items() for each in with_token(cut(texts), domain)]
        dev = [each for domain, texts in found.dev.items() for each in with_token(cut(texts), domain)]
        return Share(name, tuple(train), tuple(dev), parts)
    return Share(name, cut(everything), cut(found.all_dev), parts)


def random_parts(found: Materials, seed: int) -> Assigned:
    """Return a random part for each text, all of one size."""
    drawing, parts = generator(seed, "random parts"), len(found.passages)
    train, dev = (
        tuple((torch.randperm(len(each), generator=drawing) % parts).tolist())
        for each in (found.all_passages, found.all_dev)
    )
    return Assigned(train, dev)


def train_share(
    base: Base, share: Share, family: str, *, settings: SmallSettings, seed: int, rate: float, steps: int
) -> tuple[Trained, float]:
    """Return the trained model of a share and the seconds it took; a dense model takes the steps of all parts."""
    rank = settings.rank * share.parts if family == "dense-wide" else settings.rank
    config = settings.fit(seed=seed, rate=rate, rank=rank, steps=steps * share.parts)
    started = time.perf_counter()
    trained = fit_documents(base, share.train, dev=share.dev, config=config, name=share.name)
    return trained, time.perf_counter() - started


def held_out_nats(trained: Trained) -> float:
    """Return the best held-out loss after training began."""
    return min(each.loss for each in trained.history.evaluations[1:])


def try_rate(
    base: Base, family: str, found: Materials, *, settings: SmallSettings, rate: float, assigned: Assigned
) -> dict[str, float]:
    """Return a learning rate's mean held-out loss over a family's models, trained for fewer steps."""
    losses, seconds = [], 0.0
    for name in member_names(family, tuple(found.passages)):
        share = family_share(family, name, found, tokenizer=base.tokenizer, settings=settings, assigned=assigned)
        trained, took = train_share(
            base, share, family, settings=settings, seed=RATE_SEED, rate=rate, steps=settings.rate_steps
        )
        losses.append(held_out_nats(trained))
        seconds += took
    return {"rate": rate, "loss": sum(losses) / len(losses), "seconds": seconds}


def chosen_rate(family: str, done: Mapping[str, Mapping[str, Any]], settings: SmallSettings) -> float:
    """Return the learning rate with the lowest held-out loss of the family."""
    tried = [done[rate_piece(family, number)] for number in range(len(settings.rates))]
    return float(min(tried, key=lambda each: each["loss"])["rate"])


def rate_piece(family: str, number: int) -> str:
    """Return the name of the piece that tries a family's n-th learning rate."""
    return f"rate-{family}-{number}"


def keep_trained(
    base: Base, place: Place, family: str, name: str, found: Materials, *, settings: SmallSettings, assigned: Assigned
) -> dict[str, Any]:
    """Return what a model cost, after training it and keeping it in its family's library."""
    rate = chosen_rate(family, place.done, settings)
    share = family_share(family, name, found, tokenizer=base.tokenizer, settings=settings, assigned=assigned)
    trained, seconds = train_share(
        base, share, family, settings=settings, seed=place.number, rate=rate, steps=settings.steps
    )
    library = Library(family_folder(place, family), base=base)
    if name in library:  # an earlier run was interrupted between keeping the expert and noting its cost
        library.remove(name)
    started = time.perf_counter()
    library.add(trained.expert)
    return {
        "name": name,
        "rate": rate,
        "held_out_nats": held_out_nats(trained),
        "parameters": trained.expert.card.trained_parameters,
        "tokens": trained.expert.card.tokens_seen,
        "seconds": seconds,
        "add_seconds": time.perf_counter() - started,
    }


def family_folder(place: Place, family: str) -> Any:  # noqa: ANN401 - a path
    """Return where a family's library lies: one for each family of several, one for all dense models."""
    return place.folder / ("dense" if family.startswith("dense") else family)
