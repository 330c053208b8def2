"""The settings of a fit, checked all at once, and the learning rate of each step."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from collegium.core.errors import ConfigError


@dataclass(frozen=True)
class LoopConfig:
    """Every number that decides what a fit computes; two fits of equal settings and data give equal weights.

    steps:           updates of the weights.
    learning_rate:   its peak, reached after `warmup_steps` of linear growth, then a cosine down to
                     `final_fraction` of it.
    betas, epsilon, weight_decay: AdamW's; the decay touches matrices alone, never vectors (norms, biases).
    clip:            largest global norm of a gradient.
    accumulation:    parts whose gradients are added up for one step, weighted by what each counts.
    evaluate_every:  steps between two measurements of the held-out loss (also before the first and after the last).
    patience:        measurements without improvement after which a fit stops; 0 never stops early.
    diverge_factor, diverge_steps: a fit has diverged when this many losses in a row lie above this multiple of the
                     lowest mean of as many losses in a row.
    """

    steps: int
    learning_rate: float = 1e-3
    warmup_steps: int = 0
    final_fraction: float = 0.1
    betas: tuple[float, float] = (0.9, 0.95)
    epsilon: float = 1e-8
    weight_decay: float = 0.0
    clip: float = 1.0
    accumulation: int = 1
    evaluate_every: int = 20
    patience: int = 0
    diverge_factor: float = 1.5
    diverge_steps: int = 10

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rules = [
            ("steps", self.steps, self.steps >= 0, "is not negative"),
            ("learning_rate", self.learning_rate, 0 < self.learning_rate < math.inf, "is positive"),
            ("warmup_steps", self.warmup_steps, self.warmup_steps >= 0, "is not negative"),
            ("final_fraction", self.final_fraction, 0 <= self.final_fraction <= 1, "lies in [0, 1]"),
            ("betas", self.betas, all(0 <= beta < 1 for beta in self.betas), "lie in [0, 1)"),
            ("epsilon", self.epsilon, self.epsilon > 0, "is positive"),
            ("weight_decay", self.weight_decay, self.weight_decay >= 0, "is not negative"),
            ("clip", self.clip, self.clip > 0, "is positive"),
            ("accumulation", self.accumulation, self.accumulation >= 1, "is at least 1"),
            ("evaluate_every", self.evaluate_every, self.evaluate_every >= 1, "is at least 1"),
            ("patience", self.patience, self.patience >= 0, "is not negative"),
            ("diverge_factor", self.diverge_factor, self.diverge_factor > 1, "is above 1"),
            ("diverge_steps", self.diverge_steps, self.diverge_steps >= 1, "is at least 1"),
        ]
        check_rules(rules, what="settings of the fit")


def check_rules(rules: Sequence[tuple[str, object, bool, str]], *, what: str) -> None:
    """Raise ConfigError that names every broken rule; a rule is (name, value got, whether it holds, its words)."""
    broken = [f"{name} {words}, got {value!r}" for name, value, holds, words in rules if not holds]
    if broken:
        raise ConfigError(f"{what}: {'; '.join(broken)}.")


def learning_rate_at(step: int, config: LoopConfig) -> float:
    """Return the learning rate of a step; the first step is 1.

    >>> config = LoopConfig(4, 1.0, warmup_steps=2, final_fraction=0.0)
    >>> [round(learning_rate_at(step, config), 3) for step in (1, 2, 3, 4)]
    [0.5, 1.0, 0.5, 0.0]
    """
    if step <= config.warmup_steps:
        return config.learning_rate * step / config.warmup_steps
    done = (step - config.warmup_steps) / max(1, config.steps - config.warmup_steps)
    share = config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return config.learning_rate * share
