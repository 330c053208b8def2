"""Branch-Train-Merge: whole models branched from the posterior-weighted average of earlier ones  [li2022btm]."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collegium.compose import Choice, SeparateVoices
from collegium.data import Domain, cut
from collegium.experts import Expert, FitConfig, fit_whole, open_whole
from collegium.infer import held_out
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.building.training import StepBar
from collegium.recipes.watch import Watch
from collegium.routers import average_posterior

PRIOR_WINDOWS = 16
"""Dev windows the weights of a branch are estimated on."""


def branch_weights(base: Base, parents: Sequence[Expert], domain: Domain, *, window: int) -> dict[str, float]:
    """Return each parent's average posterior on a domain's dev text: the weights of a new branch."""
    models = {parent.name: open_whole(parent, base) for parent in parents}
    voices = SeparateVoices(models)
    windows = cut(domain.split().dev, base.tokenizer, window=window, budget_tokens=PRIOR_WINDOWS * window)
    text = held_out({domain.name: windows}, context=1)
    scores = voices.score(text.tokens, Choice(voices.names), lengths=text.lengths)
    shares = average_posterior(scores.float().cpu().sum(1))
    return dict(zip(voices.names, shares.tolist(), strict=True))


def train_branch(
    base: Base,
    library: Library,
    domain: Domain,
    fit: FitConfig,
    *,
    parents: tuple[str, ...],
    folder: Path,
    watch: Watch,
) -> dict[str, Any]:
    """Train a domain's whole model from its parents (the base when there are none), add it, return its figures."""
    chosen = [library[name] for name in parents]
    weights = branch_weights(base, chosen, domain, window=fit.window) if chosen else None
    if weights is not None:
        told = ", ".join(f"{share:.2f} {name}" for name, share in weights.items())
        watch.say(f"{domain.name}: branches from {told} (average posterior on its dev text)")
    bar = StepBar(watch.begin(f"training {domain.name}", fit.steps))
    trained = fit_whole(
        base, domain, config=fit, parents=chosen, weights=weights, checkpoint=folder / domain.name, logger=bar
    )
    bar.update(fit.steps)
    library.add(trained.expert, measured=trained.curve)
    card, losses = trained.expert.card, [loss for _, loss in trained.curve["held_out"]]
    return {
        "tokens_seen": card.tokens_seen,
        "trained_parameters": card.trained_parameters,
        "held_out_nats_before": losses[0],
        "held_out_nats": min(losses),
        "branch": weights or {"base": 1.0},
        "recipe_hash": card.recipe_hash[:12],
        "warnings": list(card.warnings),
    }
