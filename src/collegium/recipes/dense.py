"""Dense baselines: one adapter on the very windows of text that the K experts read, of rank r and of rank K r."""

import math
import shutil
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from collegium.compose import Mix, attach_expert
from collegium.core.cards import content_hash
from collegium.data import Corpus
from collegium.experts import Expert, FitConfig, fit_union
from collegium.infer import HeldOut, TokenTable, perplexities, score_text
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.building.parts import Parts, text_key
from collegium.recipes.building.plan import Plan
from collegium.recipes.building.training import StepBar
from collegium.recipes.watch import Watch
from collegium.routers import fixed

LEARNING_RATES = (3e-4, 1e-3, 2e-3)
"""Each baseline takes the best of these on dev text."""


def dense_rows(
    base: Base, corpus: Corpus, table: TokenTable, plan: Plan, parts: Parts, *, folder: Path, watch: Watch
) -> list[dict[str, Any]]:
    """Return the baselines' rows of the comparison: they read and are chosen by what all experts together are.

    Every learning rate's adapter lies in a library of their own in the run's folder; a run that was interrupted goes
    on from there.
    """
    many, fit = len(corpus.names), plan.fit
    drawn = content_hash([asdict(fit), {domain.name: domain.split().hashes for domain in corpus}])[:8]
    library = Library(folder / f"dense-{drawn}", base=base, base_reference=base.name)
    rows = []
    for label, rank in (("dense", fit.rank), (f"dense rank {many * fit.rank}", many * fit.rank)):
        tried = []
        for number, rate in enumerate(LEARNING_RATES):
            name = f"{label.replace(' ', '-')}-{number}"
            config = replace(
                fit, rank=rank, steps=many * fit.steps, evaluate_every=many * fit.evaluate_every, learning_rate=rate
            )
            fit_into(base, library, name, corpus, config=config, folder=folder, watch=watch)
            tried.append(name)
        best = min(tried, key=lambda name: best_loss(library, name))
        key = [library.card(best).recipe_hash, drawn, base.fingerprint.short, text_key(table.text)]
        row = parts.values(best, inputs=key, compute=lambda best=best: _judged(base, library[best], table.text))
        rows.append({"name": label, **row})
    return rows


def fit_into(
    base: Base,
    library: Library,
    name: str,
    corpus: Corpus,
    *,
    config: FitConfig,
    folder: Path,
    watch: Watch,
) -> None:
    """Train an adapter on all domains and add it, unless the library has it."""
    if name in library:
        return
    bar = StepBar(watch.begin(f"training {name}, learning rate {config.learning_rate:g}", config.steps))
    checkpoint = folder / "checkpoints" / library.path.name / name
    trained = fit_union(base, corpus, config=config, name=name, checkpoint=checkpoint, logger=bar)
    bar.update(config.steps)
    library.add(trained.expert, measured=trained.curve)
    shutil.rmtree(checkpoint, ignore_errors=True)


def best_loss(library: Library, name: str) -> float:
    """Return an adapter's lowest held-out loss."""
    curve = next(each for each in library.metrics(name) if each.get("kind") == "training")
    return min((loss for _, loss in curve["held_out"]), default=math.inf)


def _judged(base: Base, expert: Expert, text: HeldOut) -> dict[str, Any]:
    model = Mix(base, {expert.name: attach_expert(base, expert)}, fixed({expert.name: 1.0}).bind((expert.name,)))
    return {
        "reference": None,
        "perplexity": perplexities(score_text(model, text), text),
        "experts_evaluated": 1.0,
        "ms_per_token": None,
        "resident_mb": None,
        "trained_parameters": expert.card.trained_parameters,
        "tokens_seen": expert.card.tokens_seen,
        "learning_rate": expert.card.recipe["learning_rate"],
    }
