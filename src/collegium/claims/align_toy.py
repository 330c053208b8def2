"""The toy experiment on alignment: a PicoLlama that tells tales, moved to five targets by every method."""

import functools
from collections.abc import Mapping

from collegium.align.target import Constraint, Moment, Part, Tilt
from collegium.claims.align_measure import HALF, Sweep, measured_sweep
from collegium.claims.align_setup import AlignSettings, Plan
from collegium.claims.align_work import AlignWorld, align_experiment
from collegium.claims.align_world import FEATURES, TOKENS, notes, tale_prompt, teller
from collegium.claims.experiment import Experiment
from collegium.experts import FitConfig
from collegium.experts.recipe import resolve

TILT = 3.0
BATCHES = (16, 64, 256)
REPEATS = 3
"""How often a policy is moved again from the same base, by other texts, to see how much the end scatters."""
WORDS = ("he", "she", "it")
"""What tales go on from where every prompt has a partition of its own."""
THREE = ("gender", "topic", "sentiment")
"""The targets of D16."""
TARGETS: Mapping[str, Part] = {
    "she": Constraint(FEATURES["gender"]),
    "gender": Moment(FEATURES["gender"], HALF),
    "topic": Constraint(FEATURES["topic"]),
    "sentiment": Moment(FEATURES["sentiment"], HALF),
    "tilt": Tilt(FEATURES["gender"], TILT),
}

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

TOY = AlignSettings(
    PLANS,
    samples=3200,
    pool=1024,
    fresh=256,
    looks=10,
    tokens=TOKENS,
    batch=64,
    rate=3e-3,
    adapter=resolve(FitConfig(rank=8, threads=1)),
    several=len(WORDS),
)
WORLD = AlignWorld(
    TARGETS,
    base=teller,
    prompts=lambda base, several: [tale_prompt(f"{word} ") for word in WORDS] if several else [tale_prompt()],
    general=lambda base, seed: notes(seed),
)
TOY_ALIGN: Experiment = align_experiment(
    TOY, WORLD, measure=functools.partial(measured_sweep, settings=TOY, sweep=Sweep(BATCHES, THREE, REPEATS))
)
