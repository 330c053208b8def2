"""What the experiments on alignment are made of: settings, and the policies that are moved, one budget for all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from collegium.align.config import AlignConfig
from collegium.experts import FitConfig


@dataclass(frozen=True)
class Plan:
    """A policy: by which method, to what, in batches of how many texts (0 = the settings').

    aim: a word of the world's targets. prompts: whether texts go on from several beginnings. repeat: which of several.
    """

    method: str
    aim: str
    batch: int = 0
    prompts: bool = False
    repeat: int = 0


@dataclass(frozen=True)
class AlignSettings:
    """Sizes of an experiment; every policy has the same.

    samples: texts a policy learns from. pool: of the original, to know the target by. fresh: of a policy at each look.
    looks:   along its way, after the first. drawn: texts drawn at once. tokens: of a text at most. several: prompts
             where there are several. spread: texts by which the gradient's variance is known, in `parts`, of `spreads`.
    level:   how often a constraint is kept where policies are compared at equal alignment.
    """

    plans: Mapping[str, Plan]
    samples: int
    pool: int
    fresh: int
    looks: int
    tokens: int
    batch: int
    rate: float
    adapter: FitConfig
    drawn: int = 256
    several: int = 1
    spread: int = 256
    parts: int = 32
    spreads: tuple[str, ...] = ("gdc++ she 64",)
    level: float = 0.9

    def config(self, plan: Plan, seed: int) -> AlignConfig:
        """Return a policy's settings; the policy may become the proposal every 256 texts."""
        batch = plan.batch or self.batch
        each = max(2, batch // self.several)
        return AlignConfig(
            method=plan.method,
            samples=self.samples,
            batch=each * self.several if plan.prompts else batch,
            per_prompt=each,
            tokens=self.tokens,
            learning_rate=self.rate,
            check_every=max(1, 256 // batch),
            seed=100 * seed + plan.repeat,
        )

    def plain(self) -> dict[str, Any]:
        """Return what the numbers depend on, as plain values."""
        return {**asdict(self), "spreads": list(self.spreads)}
