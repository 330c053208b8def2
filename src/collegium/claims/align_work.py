"""The pieces of an experiment on alignment: a base a seed, each policy moved once, looked at along its way."""

import functools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import torch

from collegium.align.config import AlignConfig
from collegium.align.diversity import distinct_each, self_bleu_each
from collegium.align.draws import Drawing, Draws, Prompt, draw
from collegium.align.fit import align
from collegium.align.lesson import gradient_variance
from collegium.align.methods import METHODS, Signals, advantages
from collegium.align.metrics import Pool, general_perplexity, kl_to_target
from collegium.align.policy import AdapterPolicy, noted
from collegium.align.target import Part, Solved, Target, solved
from collegium.claims.align_measure import rows
from collegium.claims.align_setup import AlignSettings, Plan
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.core.protocols import LanguageModel
from collegium.core.randomness import generator
from collegium.core.samples import plain_text
from collegium.infer import HeldOut
from collegium.models import Base
from collegium.models.trunk import Trunk


@dataclass(frozen=True)
class AlignWorld:
    """What policies of a seed are moved in: targets, the original, what texts go on from, and text of something else.

    prompts: of the base, and whether there are several. general: of the base and a seed.
    """

    targets: Mapping[str, Part]
    base: Callable[[int], Base]
    prompts: Callable[[Base, bool], list[Prompt]]
    general: Callable[[Base, int], HeldOut]


class AlignWork:
    """Computes the pieces of one experiment; keeps the last seed's base and what is known of its targets."""

    def __init__(self, settings: AlignSettings, world: AlignWorld) -> None:
        """Keep what decides the numbers."""
        self.settings, self.world = settings, world
        self.base = functools.lru_cache(maxsize=1)(world.base)
        self.ahead = functools.lru_cache(maxsize=16)(self._ahead)

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one policy's way."""
        settings, seed = self.settings, place.number
        plan = settings.plans[piece]
        found, pool = self.ahead(seed, plan.aim, plan.prompts)
        config = settings.config(plan, seed)
        policy = AdapterPolicy.fresh(self.base(seed), replace(settings.adapter, seed=seed))
        look = Look(self, policy, plan, replace(pool, draws=noted(policy, pool.draws)), found, seed)
        look.look(0)
        align(policy, found, self.prompts(plan, seed), config=config, logger=look)
        fresh = self.draws(policy.speaker(), plan, seed, settings.fresh, label="last")
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

    def prompts(self, plan: Plan, seed: int) -> list[Prompt]:
        """Return what a plan's texts go on from."""
        return self.world.prompts(self.base(seed), plan.prompts)

    def draws(
        self, model: LanguageModel, plan: Plan, seed: int, many: int, *, label: str, trunk: Trunk | None = None
    ) -> Draws:
        """Return texts of a model."""
        prompts = self.prompts(plan, seed)
        chosen = [prompts[number % len(prompts)] for number in range(many)]
        drawing = Drawing(self.settings.tokens, 1.0, self.settings.drawn)
        return draw(model, chosen, drawing=drawing, random=generator(seed, "claims", label), trunk=trunk)

    def _ahead(self, seed: int, aim: str, several: bool) -> tuple[Solved, Pool]:
        """Return a target on a seed's base, and the texts of it that the target gives any probability."""
        base = self.base(seed)
        texts = self.draws(base, Plan("", aim, prompts=several), seed, self.settings.pool, label="pool")
        target = Target(base, (self.world.targets[aim],))
        values = target.values(texts.samples)
        found = solved(target, texts, values=values)
        return found, Pool.of(found, texts, values).kept


@dataclass
class Look:
    """A logger that looks at a policy along its way."""

    work: AlignWork
    policy: AdapterPolicy
    plan: Plan
    pool: Pool
    solved: Solved
    seed: int
    curve: list[dict[str, float]] = field(default_factory=list)

    @property
    def config(self) -> AlignConfig:
        """The policy's settings."""
        return self.work.settings.config(self.plan, self.seed)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Look after an update, now and then."""
        every = max(1, self.config.updates // self.work.settings.looks)
        if "loss" in values and step % every == 0:
            self.look(step)

    def close(self) -> None:
        """Do nothing."""

    def look(self, step: int) -> None:
        """Measure the policy as it is."""
        speaker, settings = self.policy.speaker(), self.work.settings
        own = self.policy.trunk
        fresh = self.work.draws(speaker, self.plan, self.seed, settings.fresh, label=f"look {step}", trunk=own)
        moments = self.solved.target.values(fresh.samples)
        general = self.work.world.general(self.work.base(self.seed), self.seed)
        with self.policy.reading(self.pool.draws):
            far = kl_to_target(speaker, self.pool).estimate
        with self.policy.reading(fresh):
            log_policy, log_reference = fresh.log_prob(speaker), fresh.log_prob(self.solved.target.reference)
        self.curve.append(
            {
                "texts": step * self.config.batch / METHODS[self.plan.method].passes,
                "kl_p_pi": far,
                "kl_pi_a": float((log_policy - log_reference).mean()),
                "entropy": float(-log_policy.mean()),
                "reached": float(next(iter(moments.values())).mean()),
                "general": math.log(general_perplexity(speaker, general).estimate),
                **self._variances(fresh, log_policy, log_reference),
            }
        )

    def _variances(self, fresh: Draws, log_policy: torch.Tensor, log_reference: torch.Tensor) -> dict[str, float]:
        """Return the gradient's variance with the baseline and without, on the policy's own texts."""
        settings = self.work.settings
        if self.plan not in [settings.plans[name] for name in settings.spreads]:
            return {}
        rows = torch.arange(settings.spread)
        part, own = fresh.take(rows), log_policy[rows]
        log_target = log_reference[rows] + self.solved.target.log_factor(self.solved.target.values(part.samples))
        log_z = torch.full_like(own, self.solved.log_z)
        signals = Signals(own, own, own, log_target, torch.zeros(len(rows)), part.prompt, log_z)
        return {
            f"variance {name}": gradient_variance(
                self.policy, part, advantages(METHODS[name], signals), parts=settings.parts
            )
            for name in ("dpg", "dpg++")
        }


def mean(values: list[float]) -> float:
    """Return the mean."""
    return math.fsum(values) / len(values)


def align_experiment(
    settings: AlignSettings,
    world: AlignWorld,
    *,
    measure: Callable[[Mapping[str, PieceResult]], Mapping[str, float]],
) -> Experiment:
    """Return the experiment with these settings; the base is made when the first piece needs it."""
    work = AlignWork(settings, world)
    return Experiment(
        pieces=tuple(settings.plans),
        run=work.run,
        measure=measure,
        rows=functools.partial(rows, settings=settings),
        settings=settings.plain(),
    )
