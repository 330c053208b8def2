"""Training for the claims on private experts: of parts of domains, of clusters of such experts, and of their gates.

All experts start from the same weights: experts are compared by their weights, and the B of one trained from another A
says nothing about that of its neighbour.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from collegium.claims.private_setup import PrivateSettings, family_of, own_passages
from collegium.claims.small_setup import Materials, chunks
from collegium.claims.small_train import Share, held_out_nats
from collegium.compose import Cast, GateFit, Remembered, fit_phatgoose, fit_xlora
from collegium.core.protocols import Tokenizer
from collegium.core.randomness import generator
from collegium.data import Document, normalised_mutual_information
from collegium.experts import fit_documents
from collegium.library import ClusterSettings, Library, ParameterClusters, parameter_clusters
from collegium.models import Base
from collegium.train import Fit

_START = "private"
"""The label under which every expert's first weights are drawn."""


def share_of(
    name: str, members: Sequence[str], found: Materials, *, tokenizer: Tokenizer, settings: PrivateSettings
) -> Share:
    """Return what an expert learns from: the passages of these private experts, chosen by their domains' dev text."""

    def cut(documents: Sequence[Document]) -> tuple[Document, ...]:
        return chunks(documents, tokenizer, tokens=settings.sizes.chunk)

    train = [each for member in members for each in cut(own_passages(found, member, settings.parts))]
    domains = dict.fromkeys(family_of(member) for member in members)
    dev = [each for domain in domains for each in cut(found.dev[domain])]
    return Share(name, tuple(train), tuple(dev), len(members))


def keep_expert(base: Base, library: Library, share: Share, *, settings: PrivateSettings, seed: int) -> dict[str, Any]:
    """Return what an expert cost, after training it, as long as its members together, and keeping it."""
    sizes = settings.sizes
    config = sizes.fit(seed=seed, rate=sizes.rates[0], steps=sizes.steps * share.parts)
    started = time.perf_counter()
    trained = fit_documents(base, share.train, dev=share.dev, config=config, name=share.name, label=_START)
    seconds = time.perf_counter() - started
    if share.name in library:  # an earlier run was interrupted between keeping the expert and noting its cost
        library.remove(share.name)
    library.add(trained.expert)
    return {
        "name": share.name,
        "base_nats": trained.history.evaluations[0].loss,
        "held_out_nats": held_out_nats(trained),
        "parameters": trained.expert.card.trained_parameters,
        "tokens": trained.expert.card.tokens_seen,
        "seconds": seconds,
    }


def found_clusters(library: Library, *, clusters: int, settings: PrivateSettings, seed: int) -> dict[str, Any]:
    """Return the members of each cluster of private experts, and how clusters agree with their domains.

    nmi: with the domains; random_nmi: that of random clusters of the same sizes, the mean of many.
    """
    found = parameter_clusters(library, settings=ClusterSettings(clusters, seed=seed))
    families = [family_of(name) for name in found.experts]
    return {
        "members": [list(each) for each in found.members],
        "nmi": normalised_mutual_information(found.labels.tolist(), families),
        "random_nmi": random_agreement(found, families, drawn=settings.drawn, seed=seed),
    }


def random_agreement(found: ParameterClusters, families: Sequence[str], *, drawn: int, seed: int) -> float:
    """Return the mean agreement of clusters of the same sizes with randomly drawn members."""
    drawing, total = generator(seed, "random clusters"), 0.0
    for _ in range(drawn):
        labels = found.labels[torch.randperm(len(families), generator=drawing)].tolist()
        total += normalised_mutual_information(labels, families)
    return total / drawn


def fit_gate(gate: str, cast: Cast, library: Library, found: Materials, *, settings: PrivateSettings, seed: int) -> Any:  # noqa: ANN401 - plain values
    """Return what fitting a gate over the private experts gave, with as many steps and texts for each of the gates."""
    started = time.perf_counter()
    fits = _FITS[gate](cast, library, found, settings, seed)
    return {
        "seconds": time.perf_counter() - started,
        "steps": sum(len(each.history.steps) for each in fits.values()),
        "nats": {
            name: [each.history.evaluations[0].loss, min(evaluation.loss for evaluation in each.history.evaluations)]
            for name, each in fits.items()
        },
    }


def _gate_config(settings: PrivateSettings, *, experts: int, tokens: int) -> GateFit:
    sizes, steps = settings.sizes, settings.gate_steps * experts
    return GateFit(
        steps=steps,
        batch=sizes.batch,
        window=sizes.window,
        memory_tokens=tokens,
        dev_tokens=sizes.dev_tokens,
        evaluate_every=max(1, steps // 2),
        patience=0,
    )


def _own(names: Sequence[str], cast: Cast, found: Materials, settings: PrivateSettings) -> Remembered:
    assert cast.base.tokenizer is not None
    share = share_of("", names, found, tokenizer=cast.base.tokenizer, settings=settings)
    return Remembered(share.train, share.dev)


def _phatgoose(
    cast: Cast, library: Library, found: Materials, settings: PrivateSettings, seed: int
) -> Mapping[str, Fit]:
    documents = {name: _own([name], cast, found, settings) for name in cast.names}
    config = _gate_config(settings, experts=1, tokens=settings.gate_tokens)
    return fit_phatgoose(cast.base, cast.keys, library, documents=documents, config=config, seed=seed)


def _xlora(cast: Cast, library: Library, found: Materials, settings: PrivateSettings, seed: int) -> Mapping[str, Fit]:
    families: dict[str, list[str]] = {}
    for name in cast.names:
        families.setdefault(family_of(name), []).append(name)
    documents = {domain: _own(names, cast, found, settings) for domain, names in families.items()}
    config = _gate_config(settings, experts=len(cast.names), tokens=settings.gate_tokens * settings.parts)
    return {"xlora": fit_xlora(cast.base, cast.keys, library, documents=documents, config=config, seed=seed)}


_FITS = {"phatgoose": _phatgoose, "xlora": _xlora}


def settings_of(settings: PrivateSettings, domains: Sequence[str]) -> dict[str, Any]:
    """Return the settings as plain values."""
    return {**dataclasses.asdict(settings), "domains": list(domains)}
