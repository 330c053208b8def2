"""The plan: what will be done, how long it takes on this machine, and how much disk it needs."""

import shutil
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collegium.core.errors import ResourceError
from collegium.data import Corpus
from collegium.experts import FitConfig
from collegium.experts.fresh import numbers_of, places_of
from collegium.experts.recipe import SETTINGS
from collegium.models import Base
from collegium.recipes.budget import Budget
from collegium.recipes.speed import scoring_tokens_per_second, tokens_per_second

SPARE = 0.06
"""Share of a time budget that is kept in hand."""
SETTING_SECONDS = 100.0
"""What loading, measuring, routers, discovery, samples and the report take together on a laptop."""
LEAST_TRAINING = 0.25
"""Share of a time budget that training gets in any case."""
NEWCOMER_SHARE = 0.125
"""Steps of the further expert that comes and goes, as a share of an expert's."""
LEAST_STEPS = 8
"""Steps an expert gets in any budget of time."""
FULL_FITS = 7
"""What `full` trains beside each expert, in experts: two dense ranks at three learning rates, a cluster expert."""
FULL_RATES = 3
"""Learning rates of each dense rank; all adapters are kept."""
CHECKPOINTS = 2
"""Kept of the fit under way."""
OPTIMISER_COPIES = 4
"""Weights, best weights and AdamW's two means in a checkpoint."""


@dataclass(frozen=True)
class Plan:
    """What a build will do.

    train_speed, score_speed: measured tokens a second. fit: each expert's settings, its steps resolved.
    eval_tokens: held-out tokens a domain, at most.
    """

    domains: tuple[str, ...]
    documents: dict[str, int]
    device: str
    dtype: str
    train_speed: float
    score_speed: float
    fit: FitConfig
    eval_tokens: int
    expected_seconds: float
    disk_bytes: int

    def lines(self) -> list[str]:
        """Return the plan as a person reads it."""
        tokens = self.fit.steps * self.fit.batch * self.fit.window * self.fit.accumulation
        judged = f"; up to {self.eval_tokens:,} held-out tokens a domain" if self.eval_tokens else ""
        many = ", ".join(f"{name} ({self.documents[name]:,} documents)" for name in self.domains)
        return [
            f"domains   {many}",
            f"experts   {len(self.domains)} of {self._described()} on layers {self.fit.layers}, "
            f"{self.fit.steps} steps = {tokens:,} tokens each{judged}",
            f"machine   {self.device}, {self.dtype}: trains {self.train_speed:.0f} and scores {self.score_speed:.0f} "
            "tokens a second (measured)",
            f"expected  {self.expected_seconds / 60:.1f} minutes, {self.disk_bytes / 1e6:.0f} MB of disk",
        ]

    def _described(self) -> str:
        kind, size = self.fit.kind, f"rank {self.fit.rank}"
        if kind == "lora":
            return size
        return f"kind {kind}, {size}," if "rank" in SETTINGS[kind] else f"kind {kind}"

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "domains": list(self.domains),
            "documents": self.documents,
            "device": self.device,
            "dtype": self.dtype,
            "train_tokens_per_second": round(self.train_speed, 1),
            "score_tokens_per_second": round(self.score_speed, 1),
            "kind": self.fit.kind,
            "steps": self.fit.steps,
            "tokens_per_expert": self.fit.steps * self.fit.batch * self.fit.window * self.fit.accumulation,
            "eval_tokens": self.eval_tokens,
            "expected_seconds": round(self.expected_seconds, 1),
            "disk_bytes": self.disk_bytes,
        }


def make_plan(
    base: Base,
    corpus: Corpus,
    fit: FitConfig,
    *,
    budget: Budget,
    eval_tokens: int,
    train_speed: float | None = None,
) -> Plan:
    """Return the plan for a budget: in a budget of time the experts' steps are what is left after evaluation.

    budget:      of time, of tokens an expert, or neither (`full`: the steps of `fit`, and all comparisons).
    train_speed: tokens a second where it was measured already.
    """
    train, score = train_speed or tokens_per_second(base, fit), scoring_tokens_per_second(base)
    many = len(corpus.names)
    full = budget.seconds is None and budget.tokens is None
    step_tokens = fit.tokens_per_step
    judged = judging_seconds(many, score, eval_tokens, fit, base, full=full)
    measured = fit.dev_tokens / score / fit.evaluate_every
    step_seconds = step_tokens / train + measured
    if budget.seconds is not None:
        free = max((1 - SPARE) * budget.seconds - judged, LEAST_TRAINING * budget.seconds)
        steps = max(LEAST_STEPS, int(free / step_seconds / (many + NEWCOMER_SHARE)))
    elif budget.tokens is not None:
        steps = max(1, budget.tokens // step_tokens)
    else:
        steps = fit.steps
    resolved = replace(fit, steps=steps)
    adapter = 4 * numbers_of(base, fit)
    fits = many * (1 + FULL_FITS) if full else many
    kept = many + 1 + (FULL_RATES * (1 + many) + many if full else 0)
    largest = many if full else 1
    seconds = judged + resolved.steps * step_seconds * (fits + NEWCOMER_SHARE)
    return Plan(
        domains=corpus.names,
        documents={each.name: len(each.documents) for each in corpus},
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        train_speed=train,
        score_speed=score,
        fit=resolved,
        eval_tokens=eval_tokens,
        expected_seconds=seconds,
        disk_bytes=adapter * (kept + CHECKPOINTS * OPTIMISER_COPIES * largest),
    )


def judging_seconds(
    experts: int, score_speed: float, eval_tokens: int, fit: FitConfig, base: Base, *, full: bool
) -> float:
    """Return the seconds that the table, mix, merge, samples and the rest take: forwards times tokens.

    full: dense baselines and cluster experts are judged too.
    """
    if eval_tokens == 0:
        return 0.0
    blocks = len(base.blocks)
    share = adapted_share(set(places_of(base, fit)), blocks)
    table = (1 - share) + share * (experts + 1)
    mixes, merges = 2 + 0.25 * table, 2
    compared = 2 + table if full else 0
    newcomer = 3 * table * experts * 256
    return (experts * eval_tokens * (table + mixes + merges + compared) + newcomer) / score_speed + SETTING_SECONDS


def adapted_share(paths: set[str], blocks: int) -> float:
    """Return the share of blocks from the first adapted one on."""
    numbers = [int(part) for path in paths for part in path.split(".") if part.isdigit()]
    return 1.0 if not numbers else 1 - min(numbers) / blocks


def check_disk(plan: Plan, folder: Path) -> None:
    """Raise ResourceError when the plan needs more disk than is free where the library goes."""
    place = folder
    while not place.exists():
        place = place.parent
    free = shutil.disk_usage(place).free
    if free < plan.disk_bytes:
        raise ResourceError(
            f"the plan needs {plan.disk_bytes / 1e6:.0f} MB, {place} has {free / 1e6:.0f} MB free: "
            "free space there, give another --library, or lower --rank."
        )
