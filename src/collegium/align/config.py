"""The settings of an alignment, checked all at once."""

import math
from dataclasses import dataclass

from tyro.conf import Suppress

from collegium.align.draws import Drawing
from collegium.align.methods import METHODS
from collegium.core.errors import ConfigError
from collegium.core.tables import nearest
from collegium.train import LoopConfig, check_rules

_NEVER = 1e9
"""A factor by which no loss grows: a policy gradient's loss is no measure of anything."""


@dataclass(frozen=True)
class AlignConfig:
    """How a policy is moved. Equal settings, models and prompts give equal weights, bit for bit on a processor."""

    method: str = "gdc++"
    """gdc++, gdc, dpg++, dpg, cdpg, fdpg-DIVERGENCE, reinforce, reinforce_p, rloo, grpo, kl_control or ppo."""
    samples: int = 2304
    """Texts that are learnt from, all updates together."""
    batch: int = 64
    """Texts in an update."""
    per_prompt: int = 8
    """Texts of each prompt in an update, where there are several prompts."""
    tokens: int = 32
    """New tokens in a text at most."""
    temperature: float = 1.0
    """Of the proposal; what is learnt is weighed by what it was drawn with."""
    learning_rate: float | None = None
    """AdamW's, constant after the warm-up; default = 1e-3 for an adapter, 1e-5 for a whole model."""
    warmup: float = 0.08
    """Share of the updates in which the learning rate grows."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    beta: float = 0.1
    """What kl_control and ppo take off the reward for each nat of log pi / a, at the beginning."""
    beta_target: float = 0.0
    """KL(pi || a) in nats at which beta is steered; 0 = beta stays as it is."""
    check_every: int = 4
    """Updates between two looks at whether the policy is to become the proposal (gdc, gdc++)."""
    variance_every: int = 0
    """Updates between two measurements of the gradient's variance; 0 = none, each costs a reading of the batch."""
    seed: Suppress[int] = 0  # a command has one seed, given elsewhere
    """Of the texts drawn, and of an adapter's first weights."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        if self.method not in METHODS:
            raise ConfigError(f"there is no method {self.method!r}. {nearest(self.method, METHODS)}")
        rate = self.learning_rate
        rules = [
            ("samples", self.samples, self.samples >= self.batch, "is at least --batch"),
            ("batch", self.batch, self.batch >= 2, "is at least 2"),
            ("per_prompt", self.per_prompt, self.per_prompt >= 2, "is at least 2"),
            ("learning_rate", rate, rate is None or 0 < rate < math.inf, "is positive and finite"),
            ("warmup", self.warmup, 0 <= self.warmup <= 1, "lies in [0, 1]"),
            ("clip", self.clip, 0 < self.clip < math.inf, "is positive and finite"),
            ("beta", self.beta, 0 <= self.beta < math.inf, "is not negative and finite"),
            ("beta_target", self.beta_target, 0 <= self.beta_target < math.inf, "is not negative and finite"),
            ("variance_every", self.variance_every, self.variance_every >= 0, "is not negative"),
            ("check_every", self.check_every, self.check_every >= 1, "is at least 1"),
        ]
        check_rules(rules, what="settings of an alignment")

    @property
    def rounds(self) -> int:
        """How many batches are drawn."""
        return self.samples // self.batch

    @property
    def updates(self) -> int:
        """How many updates of the weights are made."""
        return self.rounds * METHODS[self.method].passes

    def drawing(self, ends: frozenset[int] | None = None) -> Drawing:
        """Return how texts are drawn to learn from."""
        return Drawing(self.tokens, self.temperature, self.batch, ends)

    def loop(self, usual_rate: float) -> LoopConfig:
        """Return the fit loop's settings. usual_rate: the policy's, for where none is asked for."""
        return LoopConfig(
            self.updates,
            usual_rate if self.learning_rate is None else self.learning_rate,
            warmup_steps=round(self.warmup * self.updates),
            final_fraction=1.0,
            betas=(0.9, 0.999),
            clip=self.clip,
            diverge_factor=_NEVER,
        )
