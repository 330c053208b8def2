"""The pieces of the toy experiment on alignment: a base a seed, each policy moved once, looked at along its way."""

import functools
import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import torch

from collegium.align.diversity import distinct_each, self_bleu_each
from collegium.align.draws import Drawing, Draws, Prompt, draw
from collegium.align.fit import align
from collegium.align.lesson import gradient_variance
from collegium.align.methods import METHODS, Signals, advantages
from collegium.align.metrics import Pool, kl_to_target
from collegium.align.policy import AdapterPolicy
from collegium.align.target import Solved, Target, solved
from collegium.claims.align_measure import measured, rows
from collegium.claims.align_setup import FRESH, LOOKS, PLANS, POOL, TARGETS, WORDS, Plan, settings
from collegium.claims.align_world import TOKENS, notes, tale_prompt, teller
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.core.protocols import LanguageModel
from collegium.core.randomness import generator
from collegium.core.samples import plain_text
from collegium.experts.recipe import FitConfig, resolve
from collegium.infer import nats_per_token, score_text
from collegium.models import Base

_SPREAD = 256
"""Texts from which the gradient's variance is estimated."""
ADAPTER = resolve(FitConfig(rank=8, threads=1))


@functools.lru_cache(maxsize=1)
def base_of(seed: int) -> Base:
    """Return a seed's base."""
    return teller(seed)


@functools.lru_cache(maxsize=16)
def ahead(seed: int, aim: str, *, several: bool) -> tuple[Solved, Pool]:
    """Return a target on a seed's base, and the texts it was looked at on."""
    base = base_of(seed)
    texts = draws_of(base, prompts_of(several), POOL, seed=seed, label="pool")
    target = Target(base, (TARGETS[aim],))
    values = target.values(texts.samples)
    found = solved(target, texts, values=values)
    return found, Pool.of(found, texts, values)


def prompts_of(several: bool) -> list[Prompt]:
    """Return what tales go on from."""
    return [tale_prompt(f"{word} ") for word in WORDS] if several else [tale_prompt()]


def draws_of(model: LanguageModel, prompts: list[Prompt], many: int, *, seed: int, label: str) -> Draws:
    """Return tales of a model."""
    chosen = [prompts[number % len(prompts)] for number in range(many)]
    return draw(model, chosen, drawing=Drawing(TOKENS, 1.0, 256), random=generator(seed, "claims", label))


@dataclass
class Look:
    """A logger that looks at a policy along its way."""

    policy: AdapterPolicy
    plan: Plan
    pool: Pool
    solved: Solved
    seed: int
    every: int
    curve: list[dict[str, float]] = field(default_factory=list)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Look after an update, now and then."""
        if "loss" in values and step % self.every == 0:
            self.look(step)

    def close(self) -> None:
        """Do nothing."""

    def look(self, step: int) -> None:
        """Measure the policy as it is."""
        speaker = self.policy.speaker()
        fresh = draws_of(speaker, prompts_of(self.plan.prompts), FRESH, seed=self.seed, label=f"look {step}")
        moments = self.solved.target.values(fresh.samples)
        general = notes(self.seed)
        log_policy = fresh.log_prob(speaker)
        self.curve.append(
            {
                "texts": step * self.plan.config(self.seed).batch / METHODS[self.plan.method].passes,
                "kl_p_pi": kl_to_target(speaker, self.pool).estimate,
                "kl_pi_a": float((log_policy - fresh.log_prob(self.solved.target.reference)).mean()),
                "entropy": float(-log_policy.mean()),
                "reached": float(next(iter(moments.values())).mean()),
                "general": nats_per_token(score_text(speaker, general), general, "notes"),
                **self._variances(fresh, log_policy),
            }
        )

    def _variances(self, fresh: Draws, log_policy: torch.Tensor) -> dict[str, float]:
        """Return the gradient's variance with the baseline and without, on the policy's own texts."""
        if self.plan != PLANS["gdc++ she 64"]:
            return {}
        part = fresh.take(torch.arange(_SPREAD))
        log_target = part.log_prob(self.solved.target.reference) + self.solved.target.log_factor(
            self.solved.target.values(part.samples)
        )
        own = log_policy[:_SPREAD]
        signals = Signals(
            own, own, own, log_target, torch.zeros(_SPREAD), part.prompt, torch.full_like(own, self.solved.log_z)
        )
        return {
            f"variance {name}": gradient_variance(self.policy, part, advantages(METHODS[name], signals), parts=32)
            for name in ("dpg", "dpg++")
        }


def run(piece: str, place: Place) -> PieceResult:
    """Return one policy's way."""
    plan = PLANS[piece]
    found, pool = ahead(place.number, plan.aim, several=plan.prompts)
    config = plan.config(place.number)
    policy = AdapterPolicy.fresh(base_of(place.number), replace(ADAPTER, seed=place.number))
    look = Look(policy, plan, pool, found, place.number, max(1, config.updates // LOOKS))
    look.look(0)
    align(policy, found, prompts_of(plan.prompts), config=config, logger=look)
    speaker = policy.speaker()
    fresh = draws_of(speaker, prompts_of(plan.prompts), FRESH, seed=place.number, label="last")
    texts = [plain_text(each.completion) for each in fresh.samples]
    values = next(iter(found.target.values(fresh.samples).values()))
    policy.close()
    return {
        "curve": look.curve,
        "distinct_2": mean(distinct_each(texts, 2)),
        "self_bleu_5": mean(self_bleu_each(texts)),
        "by_prompt": [float(values[fresh.prompt == number].mean()) for number in fresh.prompt.unique().tolist()],
        "nats": found.moved,
        "base": float(next(iter(found.base.values()))),
        "log_z": found.log_z,
    }


def mean(values: list[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


TOY_ALIGN = Experiment(pieces=tuple(PLANS), run=run, measure=measured, rows=rows, settings=settings())
