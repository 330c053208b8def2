"""Dense baselines at equal tokens: one adapter trained on the union of the domains, of rank r and of rank K r."""

import math
from dataclasses import asdict, replace
from typing import Any

import torch

from collegium.compose import Mix, attach_expert
from collegium.core.randomness import generator
from collegium.data import Corpus, Document
from collegium.experts import FitConfig, Trained, fit_documents
from collegium.infer import HeldOut, TokenTable, perplexities, score_text
from collegium.models import Base
from collegium.recipes.building.parts import Parts, text_key
from collegium.recipes.building.plan import Plan
from collegium.recipes.building.training import StepBar
from collegium.recipes.watch import Watch
from collegium.routers import fixed

LEARNING_RATES = (3e-4, 1e-3, 2e-3)
"""Each baseline takes the best of these on dev text."""


def union(corpus: Corpus, *, seed: int) -> tuple[tuple[Document, ...], tuple[Document, ...]]:
    """Return train and dev documents of all domains together, in a drawn order."""
    train = [each for domain in corpus for each in domain.split().train]
    dev = [each for domain in corpus for each in domain.split().dev]
    order = torch.randperm(len(train), generator=generator(seed, "union")).tolist()
    return tuple(train[place] for place in order), tuple(dev)


def dense_rows(
    base: Base, corpus: Corpus, table: TokenTable, plan: Plan, parts: Parts, *, watch: Watch
) -> list[dict[str, Any]]:
    """Return the baselines' rows of the comparison: as many tokens as all experts together."""
    many, fit = len(corpus.names), plan.fit
    rows = []
    for label, rank in (("dense", fit.rank), (f"dense rank {many * fit.rank}", many * fit.rank)):
        config = replace(fit, rank=rank, steps=many * fit.steps)

        def compute(config: FitConfig = config, label: str = label) -> dict[str, Any]:
            return _row(base, corpus, table.text, config, label=label, watch=watch)

        key = [asdict(config), list(LEARNING_RATES), list(corpus.names), base.fingerprint.short, text_key(table.text)]
        rows.append(parts.values(label.replace(" ", "-"), inputs=key, compute=compute))
    return rows


def _row(base: Base, corpus: Corpus, text: HeldOut, config: FitConfig, *, label: str, watch: Watch) -> dict[str, Any]:
    train, dev = union(corpus, seed=config.seed)
    best: tuple[float, Trained] | None = None
    for rate in LEARNING_RATES:
        bar = StepBar(watch.begin(f"training {label}, learning rate {rate:g}", config.steps))
        settings = replace(config, learning_rate=rate)
        name = label.replace(" ", "-")
        trained = fit_documents(base, train, dev=dev, config=settings, name=name, logger=bar)
        bar.update(config.steps)
        measured = trained.history.best
        loss = math.inf if measured is None else measured.loss
        if best is None or loss < best[0]:
            best = (loss, trained)
    assert best is not None
    return _judged(base, best[1], text, label=label)


def _judged(base: Base, trained: Trained, text: HeldOut, *, label: str) -> dict[str, Any]:
    expert = trained.expert
    name = expert.card.name
    model = Mix(base, {name: attach_expert(base, expert)}, fixed({name: 1.0}).bind((name,)))
    return {
        "name": label,
        "reference": None,
        "perplexity": perplexities(score_text(model, text), text),
        "experts_evaluated": 1.0,
        "ms_per_token": None,
        "resident_mb": None,
        "trained_parameters": expert.card.trained_parameters,
        "tokens_seen": expert.card.tokens_seen,
        "learning_rate": expert.card.recipe["learning_rate"],
    }
