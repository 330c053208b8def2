"""Claims on bigram languages: M1, M2, M4, M5, M7 with four experts, M10 and M17 with eight.

An expert is counted from its domain's 100 sequences, the dense model from the union of all of them: the same code,
the same tokens in total. Nothing is tuned, except that M4 takes the better of two priors on dev sequences.
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from collegium.claims import bigrams
from collegium.claims.bigrams import World
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.core.randomness import generator

TOP_KS = (1, 2, 3, 4)


def _run(piece: str, place: Place) -> dict[str, float]:
    if piece == "four":
        world = bigrams.draw_world(place.number)
        experts = [bigrams.fit(each) for each in world.train]
        dense = bigrams.fit(torch.cat(world.train))
        return {
            **specialisation(world, experts, dense),
            **mixing(world, experts),
            **unseen(world, experts, dense),
            **removal(world, experts),
            **random_split(world, experts, dense),
        }
    world = bigrams.draw_world(place.number, domains=8)
    return top_k(world, [bigrams.fit(each) for each in world.train])


def specialisation(world: World, experts: list[Tensor], dense: Tensor) -> dict[str, float]:
    """Return M1's margins in nats a token, the worst over domains (and experts)."""
    own, foreign = [], []
    for domain, test in enumerate(world.test):
        by_expert = (-bigrams.score(experts, test).mean((0, 1))).tolist()
        of_dense = bigrams.nats(bigrams.score([dense], test)[..., 0])
        own.append(of_dense - by_expert[domain])
        foreign += [by_expert[other] - of_dense for other in range(world.size) if other != domain]
    return {"dense_minus_own": min(own), "foreign_minus_dense": min(foreign)}


def mixing(world: World, experts: list[Tensor]) -> dict[str, float]:
    """Return M2's margins in nats a token, the worst over domains, and the perplexities over all of them."""
    prior = bigrams.uniform_prior(len(experts))
    better, behind, totals = [], [], {"posterior": 0.0, "uniform": 0.0, "oracle": 0.0, "one_token": 0.0}
    for test in world.test:
        scores = bigrams.score(experts, test)
        found = {
            "posterior": bigrams.nats(bigrams.ensemble(scores, prior)),
            "uniform": bigrams.nats(bigrams.uniform(scores)),
            "oracle": float((-scores.mean((0, 1))).min()),
            "one_token": bigrams.nats(bigrams.ensemble(scores, prior, decay=0.0)),
        }
        better.append(found["uniform"] - found["posterior"])
        behind.append(found["posterior"] - found["oracle"])
        totals = {name: totals[name] + found[name] / world.size for name in totals}
    shown = {f"perplexity_{name}": float(torch.tensor(total).exp()) for name, total in totals.items()}
    return {"uniform_minus_posterior": min(better), "posterior_minus_oracle": max(behind), **shown}


def unseen(world: World, experts: list[Tensor], dense: Tensor) -> dict[str, float]:
    """Return M4's margins in nats a token, mean over a blend of two domains and a patchwork of two others.

    Best single expert and kind of prior (equal, or cached over the dev sequences) are chosen on dev sequences.
    """
    over_best, over_dense = [], []
    for dev, test in bigrams.unseen_domains(world):
        seen, scores = bigrams.score(experts, dev), bigrams.score(experts, test)
        priors = [bigrams.uniform_prior(len(experts)), bigrams.cached_prior(seen)]
        prior = min(priors, key=lambda each: bigrams.nats(bigrams.ensemble(seen, each)))
        composed = bigrams.nats(bigrams.ensemble(scores, prior))
        best = int(seen.mean((0, 1)).argmax())
        over_best.append(bigrams.nats(scores[..., best]) - composed)
        over_dense.append(bigrams.nats(bigrams.score([dense], test)[..., 0]) - composed)
    return {"best_single_minus_ensemble": sum(over_best) / 2, "dense_minus_ensemble_unseen": sum(over_dense) / 2}


def removal(world: World, experts: list[Tensor]) -> dict[str, float]:
    """Return M5's numbers in nats a token: least rise on the removed domain, largest change on the others."""
    rises, changes = [], []
    for gone in range(world.size):
        left = [expert for number, expert in enumerate(experts) if number != gone]
        for domain, test in enumerate(world.test):
            before = bigrams.nats(bigrams.ensemble(bigrams.score(experts, test), bigrams.uniform_prior(len(experts))))
            after = bigrams.nats(bigrams.ensemble(bigrams.score(left, test), bigrams.uniform_prior(len(left))))
            (rises if domain == gone else changes).append(after - before)
    return {"rise_on_removed": min(rises), "change_on_others": max(abs(change) for change in changes)}


def random_split(world: World, experts: list[Tensor], dense: Tensor) -> dict[str, float]:
    """Return M7's margins in nats a token over all domains: dense minus the ensemble, domain and random experts."""
    together = torch.cat(world.train)
    order = torch.randperm(len(together), generator=generator(world.seed, "random split"))
    shuffled = [bigrams.fit(each) for each in together[order].chunk(world.size)]
    prior, test = bigrams.uniform_prior(len(experts)), torch.cat(world.test)
    of_dense = bigrams.nats(bigrams.score([dense], test)[..., 0])
    return {
        "dense_minus_domain_experts": of_dense - bigrams.nats(bigrams.ensemble(bigrams.score(experts, test), prior)),
        "dense_minus_random_experts": of_dense - bigrams.nats(bigrams.ensemble(bigrams.score(shuffled, test), prior)),
    }


def top_k(world: World, experts: list[Tensor]) -> dict[str, float]:
    """Return M10's and M17's numbers: perplexity over that of all experts minus one, the worst over domains.

    `cached_top_2` keeps the two largest entries of a prior cached on the domain's dev sequences and evaluates only
    these; posterior top-k evaluates all experts and mixes k.
    """
    prior, found = bigrams.uniform_prior(len(experts)), {}
    for domain, test in enumerate(world.test):
        scores = bigrams.score(experts, test)
        everyone = bigrams.nats(bigrams.ensemble(scores, prior))
        by_k = {k: bigrams.nats(bigrams.ensemble(scores, prior, top_k=k)) for k in TOP_KS}
        cached = bigrams.cached_prior(bigrams.score(experts, world.dev[domain]))
        kept = cached.argsort(descending=True, stable=True)[:2]
        sparse = bigrams.nats(bigrams.ensemble(scores[..., kept], cached[kept].log_softmax(-1)))
        excess = {
            "top_1_excess": by_k[1] - everyone,
            "top_2_excess": by_k[2] - everyone,
            "top_2_to_4_excess": max(by_k[k] for k in (2, 3, 4)) - everyone,
            "rise_with_k": max(by_k[3] - by_k[2], by_k[4] - by_k[3]),
            "cached_top_2_excess": sparse - everyone,
        }
        found = {name: max(found.get(name, value), value) for name, value in excess.items()}
    return {name: float(torch.tensor(value).expm1()) for name, value in found.items()}


def _measure(done: Mapping[str, PieceResult]) -> dict[str, float]:
    return {**done["four"], **done["eight"]}


def _rows(done: Mapping[str, PieceResult]) -> list[dict[str, float | str]]:
    names = ("posterior", "uniform", "oracle", "one_token")
    return [{"model": name, "perplexity": done["four"][f"perplexity_{name}"]} for name in names]


TOY_BIGRAMS = Experiment(
    pieces=("four", "eight"),
    run=_run,
    measure=_measure,
    rows=_rows,
    settings={
        "symbols": bigrams.SYMBOLS,
        "tokens": bigrams.TOKENS,
        "sequences": bigrams.SEQUENCES,
        "concentration": bigrams.CONCENTRATION,
    },
)
