"""The plan of `reward fit`: what is learnt from what, how long that takes on this machine, what it needs of it.

Speed is measured by a rehearsal: the first steps of the design's own fit, on pairs of the first domain that fill one
batch. The first step also reads what lies below the adapters, which is kept; the later ones do not.
"""

import itertools
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from collegium.data.preferences import PairCorpus
from collegium.experts import FitConfig
from collegium.experts.fresh import numbers_of
from collegium.models import Base, memory_of
from collegium.recipes.building.plan import CHECKPOINTS, OPTIMISER_COPIES
from collegium.rewards import Design, DesignOptions, RewardConfig
from collegium.rewards.config import PASSES, Trained
from collegium.rewards.designs import joint_settings
from collegium.rewards.fit import Lesson, fit_judge, fit_whole_judge
from collegium.rewards.judges import size_of
from collegium.rewards.more import fitted_mixture
from collegium.rewards.texts import Encoder

FORWARD = 1 / 3
"""What reading a text costs, as a share of learning from it."""
ROUTED: tuple[Design, ...] = ("rodos", "arliss")


class StepClock:
    """A logger of the fit loop that remembers when each step ended."""

    def __init__(self) -> None:
        """Wait for the measurement before the first step."""
        self.times: list[float] = []

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Remember the time of the first measurement, and of each step."""
        if "loss" in values or not self.times:
            self.times.append(time.perf_counter())

    def close(self) -> None:
        """Do nothing."""

    @property
    def seconds(self) -> tuple[float, float]:
        """The seconds of the first step, and of the fastest of the later ones."""
        steps = [after - before for before, after in itertools.pairwise(self.times)]
        return steps[0], min(steps[1:], default=steps[0])


@dataclass(frozen=True)
class RewardPlan:
    """What a fit will do.

    pairs:  training pairs of each domain that are used, and how many there are. cut: texts that do not fit whole.
    speed:  training tokens a second, measured, once what lies below the adapters is kept.
    memory: bytes that judges take beside the base when they judge, and that the largest fit takes.
    """

    design: Design
    trained: Trained
    device: str
    dtype: str
    text_tokens: int
    pairs: dict[str, tuple[int, int]]
    cut: dict[str, int]
    speed: float
    expected_seconds: float
    disk_bytes: int
    judging_bytes: int
    fitting_bytes: int
    free_bytes: int
    resident_models: int

    def lines(self) -> list[str]:
        """Return the plan as a person reads it."""
        told = [
            f"{name:9} {used} of {there} training pairs"
            + (f", {self.cut[name]} texts cut to {self.text_tokens} tokens" if self.cut[name] else "")
            for name, (used, there) in self.pairs.items()
        ]
        megabytes = [each / 1e6 for each in (self.judging_bytes, self.fitting_bytes, self.free_bytes)]
        many = f"{self.resident_models} whole models" if self.trained == "whole" else "adapters and heads"
        return [
            *told,
            f"machine   {self.device}, {self.dtype}: learns from {self.speed:.0f} tokens a second (measured)",
            f"expected  {self.expected_seconds:.0f} seconds, {self.disk_bytes / 1e6:.0f} MB of disk",
            f"memory    beside the base {megabytes[0]:,.0f} MB for {many} when it judges, {megabytes[1]:,.0f} MB while "
            f"one is fitted; {megabytes[2]:,.0f} MB are free",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "design": self.design,
            "device": self.device,
            "dtype": self.dtype,
            "domains": {
                name: {"train_pairs": used, "of": there, "cut_texts": self.cut[name]}
                for name, (used, there) in self.pairs.items()
            },
            "text_tokens": self.text_tokens,
            "train_tokens_per_second": round(self.speed, 1),
            "expected_seconds": round(self.expected_seconds, 1),
            "disk_bytes": self.disk_bytes,
            "judging_bytes": self.judging_bytes,
            "fitting_bytes": self.fitting_bytes,
        }


def make_reward_plan(
    base: Base,
    corpus: PairCorpus,
    lessons: Mapping[str, Lesson],
    *,
    design: Design,
    config: RewardConfig,
    options: DesignOptions,
) -> RewardPlan:
    """Return the plan of a design, measured on this machine; nothing is made."""
    trained: Trained = "whole" if design == "rodos" or (design, options.size) == ("joint", "whole") else "adapter"
    first, later = rehearsal(base, corpus, design=design, config=config, options=options)
    passes = PASSES[trained] if config.passes is None else config.passes
    read = sum(int(each.train.texts.lengths.sum()) for each in lessons.values())
    measured = sum(int(each.dev.texts.lengths.sum()) for each in lessons.values())
    prompts = sum(prompt_tokens(each, options.memory) for each in lessons.values()) if design in ROUTED else 0
    seconds = (passes * read + FORWARD * (config.measures + 1) * measured) / later + read * max(
        0.0, 1 / first - 1 / later
    )
    seconds += prompts * (passes if design == "arliss" else FORWARD) / later
    each, many = sizes_of(base, design, len(corpus), config=config, options=options)
    own = 4 * each
    resident = many * each * (base.dtype.itemsize if trained == "whole" else 4)
    return RewardPlan(
        design=design,
        trained=trained,
        device=str(base.device),
        dtype=str(base.dtype).removeprefix("torch."),
        text_tokens=config.text_tokens,
        pairs={domain.name: (len(lessons[domain.name].train), len(domain.split().train)) for domain in corpus},
        cut={name: lesson.train.cut + lesson.dev.cut for name, lesson in lessons.items()},
        speed=later,
        expected_seconds=seconds,
        disk_bytes=own * (many + CHECKPOINTS * OPTIMISER_COPIES),
        judging_bytes=resident,
        fitting_bytes=own * (OPTIMISER_COPIES + 1),
        free_bytes=memory_of(base.device)[0],
        resident_models=many,
    )


def rehearsal(
    base: Base, corpus: PairCorpus, *, design: Design, config: RewardConfig, options: DesignOptions
) -> tuple[float, float]:
    """Return the tokens a second of the first step of a design's fit, and of later ones."""
    clock, domains = StepClock(), tuple(corpus)[:1]
    whole = design == "rodos" or (design, options.size) == ("joint", "whole")
    few = replace(
        config, train_pairs=config.batch, dev_pairs=1, measures=1, passes=2.0 if whole else 4.0, learning_rate=1e-6
    )
    lesson = Lesson.of(domains, Encoder(base, few.text_tokens), few)
    if design == "more":
        names = [f"rehearsal-{number}" for number in range(1 + (options.experts or len(corpus)))]
        fitted_mixture(base, domains, names, config=few, options=options, logger=clock)
    elif whole:
        fit_whole_judge(base, domains, config=few, name="rehearsal", logger=clock)
    else:
        few = joint_settings(few, options.size, len(corpus)) if design == "joint" else few
        fit_judge(base, domains, config=few, name="rehearsal", logger=clock)
    first, later = clock.seconds
    tokens = 2 * few.batch * float(lesson.train.texts.lengths.float().mean())
    return tokens / first, tokens / later


def prompt_tokens(lesson: Lesson, most: int) -> int:
    """Return how many tokens a router reads of a lesson's prompts, each pair's taken for another's."""
    found = [each.texts.prompts[::2][:most] for each in (lesson.train, lesson.dev)]
    return int(sum(int(each.sum()) for each in found))


def sizes_of(
    base: Base, design: Design, domains: int, *, config: RewardConfig, options: DesignOptions
) -> tuple[int, int]:
    """Return the numbers of one member of a design, and how many such members it has."""
    if design == "rodos" or (design, options.size) == ("joint", "whole"):
        return size_of(base), domains if design == "rodos" else 1
    settings = joint_settings(config, options.size, domains) if design == "joint" else config
    blocks = len(base.blocks)
    adapter = numbers_of(base, settings.adapter(blocks)) + int(base.config.hidden_size)
    if design == "more":
        layers = f"top:{min(options.more_layers, blocks)}"
        adapter += (options.experts or domains) * numbers_of(base, FitConfig(kind="ffn", layers=layers))
    return adapter, domains + 1 if design == "arliss" else 1
