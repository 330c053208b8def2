"""Which policies the toy experiment on alignment moves, and by what: one budget and one learning rate for all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from collegium.align.config import AlignConfig
from collegium.align.target import Constraint, Moment, Part, Tilt
from collegium.claims.align_world import FEATURES, TOKENS

SAMPLES, POOL, FRESH = 3200, 1024, 256
LOOKS = 10
"""Looks at a policy along its way."""
RATE = 3e-3
HALF, TILT = 0.5, 3.0
BATCHES = (16, 64, 256)
REPEATS = 3
"""How often a policy is moved again from the same base, by other texts, to see how much the end scatters."""
WORDS = ("he", "she", "it")
"""What tales go on from where every prompt has a partition of its own."""


@dataclass(frozen=True)
class Plan:
    """A policy: by which method, to what, in batches of how many texts.

    aim: a word of `TARGETS`. prompts: whether tales go on from several beginnings. repeat: which of several.
    """

    method: str
    aim: str
    batch: int = 64
    prompts: bool = False
    repeat: int = 0

    def config(self, seed: int) -> AlignConfig:
        """Return its settings."""
        each = max(2, self.batch // len(WORDS))
        return AlignConfig(
            method=self.method,
            samples=SAMPLES,
            batch=each * len(WORDS) if self.prompts else self.batch,
            per_prompt=each,
            tokens=TOKENS,
            learning_rate=RATE,
            check_every=max(1, 256 // self.batch),
            seed=100 * seed + self.repeat,
        )


TARGETS: Mapping[str, Part] = {
    "she": Constraint(FEATURES["gender"]),
    "gender": Moment(FEATURES["gender"], HALF),
    "topic": Constraint(FEATURES["topic"]),
    "sentiment": Moment(FEATURES["sentiment"], HALF),
    "tilt": Tilt(FEATURES["gender"], TILT),
}
THREE = ("gender", "topic", "sentiment")
"""The targets of D16."""

_BASELINES = ("gdc", "gdc++")
PLANS: Mapping[str, Plan] = {
    **{f"{name} she {batch}": Plan(name, "she", batch) for name in _BASELINES for batch in BATCHES},
    **{
        f"{name} {aim} {repeat}": Plan(name, aim, repeat=repeat)
        for name in _BASELINES
        for aim in THREE
        for repeat in range(REPEATS)
    },
    **{f"{name} she": Plan(name, "she") for name in ("dpg++", "reinforce")},
    "reinforce gender": Plan("reinforce", "gender"),
    **{f"{name} tilt": Plan(f"fdpg-{name}", "tilt") for name in ("forward_kl", "jensen_shannon", "reverse_kl")},
    "cdpg topic": Plan("cdpg", "topic", prompts=True),
    "dpg++ topic": Plan("dpg++", "topic", prompts=True),
}
"""Name -> plan."""


def settings() -> dict[str, Any]:
    """Return what the numbers depend on, as plain values."""
    return {
        "plans": {name: asdict(plan) for name, plan in PLANS.items()},
        "config": asdict(replace(PLANS["gdc++ she 64"].config(0))),
        "pool": POOL,
        "fresh": FRESH,
        "looks": LOOKS,
    }
