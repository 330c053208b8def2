"""The toy experiment on DEMix: M13 (against dense models at equal tokens) and M14 (a further domain)."""

import dataclasses
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.claims import bigrams
from collegium.claims.demix_world import (
    WAYS,
    DemixSettings,
    JointWay,
    languages,
    mean_nats,
    new_language,
    score,
    start,
    tokens_of,
    trained,
)
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.compose import attach_expert
from collegium.data import Corpus, Domain
from collegium.experts import Expert, JointFit, fit_documents, fit_whole, open_whole
from collegium.models import Base, RowPlan
from collegium.recipes.branch import posterior_of
from collegium.train import History

DEMIX = DemixSettings()

Scores = Mapping[str, Float[Tensor, "text letter"]]


def _run(piece: str, place: Place) -> dict[str, float]:
    corpus, new = languages(place.number, DEMIX), new_language(place.number, DEMIX)
    way: JointWay = next(each for each in WAYS if each == piece)
    fits = {rate: trained(start(place.number), corpus, way, DEMIX.config(rate)) for rate in DEMIX.rates}
    rate = min(fits, key=lambda each: sum(fits[each].after.values()))
    found = {"learning_rate": rate, "nats": mean_nats(known(fits[rate], corpus, way))}
    if way == "demix":
        return found | grown(fits[rate], corpus, new)
    return found | continued(fits[rate].model, corpus, new) if way == "dense" else found


def known(fit: JointFit, corpus: Corpus, way: JointWay) -> dict[str, Float[Tensor, "text letter"]]:
    """Return the scores of every domain's test texts by a model that is told the domain, where it can be."""
    experts = {each.name: each for each in fit.experts(fit.model)}
    found = {}
    for number, domain in enumerate(corpus):
        tokens = tokens_of(domain.split().test)
        if way == "demix":
            plan = RowPlan.one(attach_expert(fit.model, experts[domain.name]))
            found[domain.name] = score(fit.model, tokens, plan=plan)
        else:
            found[domain.name] = score(fit.model, tokens, token=number if way == "token" else None)
    return found


def everybody(base: Base, experts: list[Expert], corpus: Corpus) -> dict[str, Float[Tensor, "text letter expert"]]:
    """Return every expert's scores of every domain's test texts."""
    plans = [RowPlan.one(attach_expert(base, each)) for each in experts]
    texts = {domain.name: tokens_of(domain.split().test) for domain in corpus}
    return {
        name: torch.stack([score(base, tokens, plan=plan) for plan in plans], dim=-1) for name, tokens in texts.items()
    }


def composed(table: Mapping[str, Float[Tensor, "text letter expert"]]) -> Scores:
    """Return the scores of the posterior ensemble under an equal prior."""
    return {name: bigrams.ensemble(each, bigrams.uniform_prior(each.shape[-1])) for name, each in table.items()}


def grown(fit: JointFit, corpus: Corpus, new: Domain) -> dict[str, float]:
    """Return what becomes of old and new domains when a further one gets an expert, begun with the nearest one."""
    base, experts = fit.model, fit.experts(fit.model)
    before = everybody(base, experts, corpus)
    shares = posterior_of(base, experts, new, window=bigrams.TOKENS + 1)
    nearest = max(experts, key=lambda each: shares[each.name])
    added = best_expert(base, nearest, new)
    after = everybody(base, experts, corpus)
    with_new = composed(everybody(base, [*experts, added], Corpus((*corpus, new))))
    tokens = tokens_of(new.split().test)
    own = {each.name: score(base, tokens, plan=RowPlan.one(attach_expert(base, each))) for each in (nearest, added)}
    return {
        "posterior_nats": mean_nats(composed(before)),
        "changed_answers": float(sum(int((before[name] != after[name]).sum()) for name in corpus.names)),
        "nearest_is_the_second": float(nearest.name == corpus.names[1]),
        "old_after": mean_nats({name: with_new[name] for name in corpus.names}),
        "new_before": -float(own[nearest.name].mean()),
        "new_after": -float(own[added.name].mean()),
        "new_by_posterior": -float(with_new[new.name].mean()),
    }


def best_expert(base: Base, nearest: Expert, domain: Domain) -> Expert:
    """Return the new expert of the learning rate that is best on dev texts: a copy of the nearest, trained further."""
    split = domain.split()
    made = [
        fit_documents(base, split.train, dev=split.dev, config=DEMIX.alone(rate), name=domain.name, begin=nearest)
        for rate in DEMIX.rates
    ]
    return min(made, key=lambda each: _lowest(each.history)).expert


def continued(base: Base, corpus: Corpus, new: Domain) -> dict[str, float]:
    """Return what becomes of old and new domains when the dense model is trained further on the new one, all of it."""
    configs = [dataclasses.replace(DEMIX.alone(rate), kind="lora") for rate in DEMIX.rates]
    made = [fit_whole(base, new, config=config) for config in configs]
    moved = open_whole(min(made, key=lambda each: _lowest(each.history)).expert, base)
    old = [{each.name: score(model, tokens_of(each.split().test)) for each in corpus} for model in (base, moved)]
    fresh = [-float(score(model, tokens_of(new.split().test)).mean()) for model in (base, moved)]
    return {
        "old_before": mean_nats(old[0]),
        "old_after": mean_nats(old[1]),
        "new_before": fresh[0],
        "new_after": fresh[1],
    }


def _lowest(history: History) -> float:
    return float("inf") if history.best is None else history.best.loss


def _measure(done: Mapping[str, PieceResult]) -> dict[str, float]:
    demix, dense = done["demix"], done["dense"]
    return {
        "dense_minus_demix": dense["nats"] - demix["nats"],
        "token_minus_demix": done["token"]["nats"] - demix["nats"],
        "dense_minus_posterior": dense["nats"] - demix["posterior_nats"],
        "changed_answers": demix["changed_answers"],
        "dense_forgets": dense["old_after"] - dense["old_before"],
        "demix_forgets": demix["old_after"] - demix["posterior_nats"],
        "new_domain_gain": demix["new_before"] - demix["new_after"],
    }


def _rows(done: Mapping[str, PieceResult]) -> list[dict[str, float | str]]:
    """Return every model's nats a letter: on the domains it learnt, and as a fifth one comes."""
    rows: list[dict[str, float | str]] = []
    for way, found in done.items():
        for key, value in found.items():
            if key not in {"changed_answers", "learning_rate", "nearest_is_the_second"}:
                rows.append({"model": way, "what": key.replace("_", " "), "value": value})
        rows.append({"model": way, "what": "learning rate", "value": found["learning_rate"]})
    return rows


TOY_DEMIX = Experiment(
    pieces=WAYS,
    run=_run,
    measure=_measure,
    rows=_rows,
    settings={**dataclasses.asdict(DEMIX), "rates": list(DEMIX.rates), "tokens": bigrams.TOKENS},
)
