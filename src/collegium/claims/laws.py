"""Exact claims: laws that hold on every seed or are broken. M3, M6, M11, M12, M15."""

import hashlib
import math
import multiprocessing
import tempfile
from collections.abc import Mapping
from pathlib import Path

import numpy
import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims import bigrams
from collegium.claims.clusters import cluster_weights
from collegium.claims.counting import CountingModel, CountingVoices
from collegium.claims.experiment import Place, one_piece
from collegium.claims.small_growth import answers, digests
from collegium.compose import Ensemble, SeparateVoices, SlotVoices, attach_expert
from collegium.core.protocols import RouterRecipe, Shelf
from collegium.core.randomness import derive_seed, generator
from collegium.data import Document, Domain
from collegium.experts import AdapterPayload, FitConfig, fit_expert
from collegium.infer import HeldOut
from collegium.library import Library
from collegium.models import Base
from collegium.routers import cached_prior, fit_cached_prior, posterior, uniform
from collegium.testing.pico import pico_base
from collegium.testing.shelf import MemoryShelf

DOMAINS = ("law", "code", "verse", "chat")
COLD, HOT = 1e-6, 1e6
_APART = FitConfig(
    rank=4, steps=60, batch=4, window=64, learning_rate=1e-2, dev_tokens=128, evaluate_every=30, patience=0, threads=1
)
"""Enough training for experts of other letters to find each other's texts most unlikely."""
_FIT = FitConfig(rank=2, steps=4, batch=2, window=32, dev_tokens=128, evaluate_every=2, patience=0, threads=1)


def bound(place: Place) -> dict[str, float]:
    """Return M3: the largest loss above the bound on 400 sequences, and whether the one-token posterior kept it."""
    world = bigrams.draw_world(place.number)
    scores = bigrams.score([bigrams.fit(each) for each in world.train], torch.cat(world.test))
    drawing = numpy.random.default_rng(derive_seed(place.number, "prior"))
    log_prior = torch.from_numpy(drawing.dirichlet([1.0] * world.size)).log()
    excess = {decay: _excess(scores, log_prior, decay) for decay in (1.0, 0.0)}
    return {"bound_excess": excess[1.0], "one_token_within_bound": float(excess[0.0] <= 0)}


def _excess(scores: Float[Tensor, "sequence seq expert"], log_prior: Float[Tensor, " expert"], decay: float) -> float:
    loss = -bigrams.ensemble(scores, log_prior, decay=decay).sum(1)
    allowed = (-scores.sum(1) - log_prior).min(-1).values
    return float((loss - allowed).max())


def documents(name: str, seed: int, *, count: int = 12) -> tuple[Document, ...]:
    """Return drawn texts whose letters tell their domain."""
    letters = "abcdefgh" if name in ("law", "chat") else "stuvwxyz"
    drawing = generator(seed, "texts", name)
    found = []
    for _ in range(count):
        picked = torch.randint(len(letters), (160,), generator=drawing).tolist()
        found.append(Document(text=f"{name} " + "".join(letters[each] for each in picked)))
    return tuple(found)


def domain(name: str, seed: int) -> Domain:
    """Return a pico domain."""
    return Domain(name, documents(name, seed))


def held_out_windows(base: Base, seed: int) -> HeldOut:
    """Return two windows of each old domain, every token counted but the first."""
    rows = [
        base.tokenizer.encode(each.plain)[:64] for name in DOMAINS[:3] for each in documents(name, seed + 1000, count=2)
    ]
    tokens, size = torch.tensor(rows), len(rows)
    counted = torch.ones_like(tokens, dtype=torch.bool)
    counted[:, 0] = False
    lengths, ones = torch.full((size,), tokens.shape[1]), torch.ones(size, dtype=torch.long)
    return HeldOut(
        tokens, lengths, counted, torch.ones_like(tokens), ones, tuple(DOMAINS[row // 2] for row in range(size))
    )


def growth(place: Place) -> dict[str, float]:
    """Return M6 on a pico library on disk: files, bound and answers around the addition of a fourth expert."""
    base = pico_base(place.number)
    text = held_out_windows(base, place.number)
    with tempfile.TemporaryDirectory() as folder:
        library = Library(Path(folder) / "library", base=base)
        for name in DOMAINS[:3]:
            library.add(fit_expert(base, domain(name, place.number), config=_APART))
        before, files = answers(base, library, text), digests(library)
        library.add(fit_expert(base, domain(DOMAINS[3], place.number), config=_APART))
        during, now = answers(base, library, text), digests(library)
        broken = {router.name: excess(base, library, text, router) for router in (uniform(), posterior(decay=0.0))}
        library.remove(DOMAINS[3])
        after = answers(base, library, text)
    return {
        "changed_files": float(sum(now.get(path) != digest for path, digest in files.items())),
        "added_bound_excess": bound_excess(before, during),
        "others_within_bound": float(min(broken.values()) <= 0),
        "largest_change_after_removal": float((after - before).abs().max()),
    }


def excess(base: Base, library: Library, text: HeldOut, router: RouterRecipe) -> float:
    """Return the largest loss of a text above M6's bound under another router than the cumulative posterior."""
    old = library.filter(DOMAINS[:3])
    return bound_excess(answers(base, old, text, router=router), answers(base, library, text, router=router))


def bound_excess(before: Float[Tensor, "window seq"], after: Float[Tensor, "window seq"]) -> float:
    """Return the largest loss of a text above log(4 / 3), which an equal prior allows when a fourth expert comes."""
    return float((before - after).double().sum(1).max()) - math.log(4 / 3)


def limits(place: Place) -> dict[str, float]:
    """Return M11: how far cluster weights are from one-hot when cold and from equal when hot."""
    cold, hot = cluster_weights(place.number, COLD), cluster_weights(place.number, HOT)
    nearest = cluster_weights(place.number, 1.0).argmax(-1, keepdim=True)
    one_hot = torch.zeros_like(cold).scatter(-1, nearest, 1.0)
    return {
        "cold_gap": float((cold - one_hot).abs().max()),
        "hot_gap": float((hot - 1 / hot.shape[-1]).abs().max()),
    }


def counts(place: Place) -> dict[str, float]:
    """Return M12: rows that sparse ensembles evaluate, and the share of whole models' parameters that a text uses."""
    base, k = pico_base(place.number), 2
    text = held_out_windows(base, place.number)
    keys = {}
    for name in DOMAINS:
        keys[name] = attach_expert(base, fit_expert(base, domain(name, place.number), config=_FIT))
    shelf = MemoryShelf()
    fit_cached_prior(shelf, log_likelihoods=torch.tensor([[-9.0, -8.0, -10.0, -11.0]]), experts=DOMAINS)
    rows = {
        recipe.name: evaluated(base, keys, text, recipe=recipe, shelf=shelf, top_k=k)
        for recipe in (posterior(), cached_prior())
    }
    return {
        "parameter_share_gap": abs(parameter_share(text, place.number, shelf=shelf, top_k=k) - k / len(DOMAINS)),
        "posterior_evaluates_gap": abs(float(rows["posterior"] - len(DOMAINS))),
        "coarse_evaluates_gap": abs(float(rows["cached_prior"] - k)),
    }


def parameter_share(text: HeldOut, seed: int, *, shelf: Shelf, top_k: int) -> float:
    """Return the share of all whole models' parameters that one text is run through, counted at the models."""
    bases = {name: pico_base(seed + place) for place, name in enumerate(DOMAINS)}
    models = {name: CountingModel(each) for name, each in bases.items()}
    router = cached_prior().bind(DOMAINS, shelf=shelf, tokenizer=None)
    Ensemble(SeparateVoices(models), router, top_k=top_k).score(text.tokens[:1], lengths=text.lengths[:1])
    sizes = {name: sum(each.numel() for each in base.model.parameters()) for name, base in bases.items()}
    used = sum(models[name].texts * size for name, size in sizes.items())
    return used / sum(sizes.values())


def evaluated(
    base: Base, keys: Mapping[str, str], text: HeldOut, *, recipe: RouterRecipe, shelf: Shelf, top_k: int
) -> int:
    """Return the most rows a text that an ensemble asked of its voices."""
    voices = CountingVoices(SlotVoices(base, keys))
    router = recipe.bind(DOMAINS, shelf=shelf, tokenizer=base.tokenizer)
    Ensemble(voices, router, top_k=top_k).score(text.tokens, lengths=text.lengths)
    return max(voices.asked)


def parallel(place: Place) -> dict[str, float]:
    """Return M15: tensors of an expert that differ when it is trained after another, or in another process."""
    seed = place.number
    alone = fitted_digests(seed, ("law",))
    after = fitted_digests(seed, ("code", "law"))
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        elsewhere = pool.apply(fitted_digests, (seed, ("law",)))
    return {
        "differing_after_others": float(sum(after[path] != digest for path, digest in alone.items())),
        "differing_in_process": float(sum(elsewhere[path] != digest for path, digest in alone.items())),
    }


def fitted_digests(seed: int, order: tuple[str, ...]) -> dict[str, str]:
    """Return the sha256 of each tensor of the last expert, after training all of them one after another."""
    base, fitted = pico_base(seed), None
    for name in order:
        fitted = fit_expert(base, domain(name, seed), config=_FIT)
    assert fitted is not None
    assert isinstance(fitted.payload, AdapterPayload)
    tensors = {
        f"{path}.{part}": tensor
        for path, weights in fitted.payload.adapter.items()
        for part, tensor in weights.tensors.items()
    }
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


LAWS = {
    name: one_piece(name, law)
    for name, law in {
        "bound": bound,
        "growth": growth,
        "limits": limits,
        "counts": counts,
        "parallel": parallel,
    }.items()
}
