"""The settings of a reward model, checked all at once."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

from tyro.conf import Suppress

from collegium.core.errors import ConfigError
from collegium.experts import FitConfig
from collegium.rewards.reading import Pooling
from collegium.rewards.texts import MINIMUM_TOKENS
from collegium.train import LoopConfig, check_rules

Trained = Literal["adapter", "ffn", "whole"]
"""What of a base is trained."""

RATES: Mapping[Trained, float] = {"adapter": 1e-3, "ffn": 2e-4, "whole": 2e-4}
"""Peak learning rates where none is given."""

HEAD_RATE = 1e-4
"""A head's own peak: it reads states of a length of some tens, so steps as large as an adapter's would throw rewards
about by one and more."""

PASSES: Mapping[Trained, float] = {"adapter": 4.0, "ffn": 4.0, "whole": 1.0}
"""How often each training pair is read where it is not said."""


@dataclass(frozen=True)
class RewardConfig:
    """Settings of the judges of a reward model. Equal settings, base and pairs give equal weights on a processor."""

    text_tokens: int = 96
    """The most tokens of a prompt and its answer together; the prompt keeps its last half, the answer its first."""
    train_pairs: int = 96
    """At most this many training pairs of each domain; 0 = all."""
    dev_pairs: int = 32
    """At most this many pairs of each domain to choose by, to standardise and to calibrate; 0 = all."""
    passes: float | None = None
    """How often each training pair is read; None = four times, once where whole models are trained."""
    batch: int = 8
    """Pairs read at once."""
    layers: str | tuple[int, ...] = "top:10"
    """The layers that adapters change: `all`, `top:K` (all, where there are fewer), or block numbers."""
    rank: int = 16
    """Rank of the adapters."""
    alpha: float | None = None
    """Their change is scaled by alpha / rank; None = twice the rank."""
    targets: tuple[str, ...] | None = None
    """Names of the layers that adapters change, as paths end (`q_proj`); None = every linear layer in a block."""
    pooling: Literal["auto", "last", "mean", "first"] = "auto"
    """Which state a head reads: last token, mean of all, first; auto = last for decoders, mean for encoders."""
    smoothing: float = 0.0
    """The share of preferences that is taken to be noted the wrong way round."""
    margin_scale: float = 0.0
    """How much of the pairs' own margins is asked for as a difference of rewards; 0 = margins are not looked at."""
    learning_rate: float | None = None
    """Its peak; None = 0.001 for adapters, 0.0002 for feed-forward experts and whole models."""
    warmup: float = 0.08
    """Share of the steps in which the learning rate grows to its peak; afterwards a cosine to a tenth."""
    weight_decay: float = 0.01
    """AdamW's, on matrices alone."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    measures: int = 4
    """How often the dev loss is measured; the weights of the best are kept."""
    states_mb: int = 1024
    """Megabytes of memory that the states below the adapters may take while they are trained; 0 = none are kept."""
    seed: Suppress[int] = 0
    """Of the first weights and the order of pairs."""
    threads: Suppress[int | None] = None
    """Processor threads; None = as many as torch uses here."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rate, alpha, passes = self.learning_rate, self.alpha, self.passes
        rules = [
            ("text_tokens", self.text_tokens, self.text_tokens >= MINIMUM_TOKENS, f"is at least {MINIMUM_TOKENS}"),
            ("train_pairs", self.train_pairs, self.train_pairs >= 0, "is not negative"),
            ("dev_pairs", self.dev_pairs, self.dev_pairs >= 0, "is not negative"),
            ("passes", passes, passes is None or 0 < passes < math.inf, "is positive and finite"),
            ("batch", self.batch, self.batch >= 1, "is at least 1"),
            ("rank", self.rank, self.rank >= 1, "is at least 1"),
            ("alpha", alpha, alpha is None or 0 < alpha < math.inf, "is positive and finite"),
            ("smoothing", self.smoothing, 0 <= self.smoothing < 0.5, "lies from 0 to below 0.5"),
            ("margin_scale", self.margin_scale, 0 <= self.margin_scale < math.inf, "is not negative and finite"),
            ("learning_rate", rate, rate is None or 0 < rate < math.inf, "is positive and finite"),
            ("warmup", self.warmup, 0 <= self.warmup <= 1, "lies in [0, 1]"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "is not negative and finite"),
            ("clip", self.clip, 0 < self.clip < math.inf, "is positive and finite"),
            ("measures", self.measures, self.measures >= 1, "is at least 1"),
            ("states_mb", self.states_mb, self.states_mb >= 0, "is not negative"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "is at least 1"),
        ]
        check_rules(rules, what="settings of a reward model")

    def pooled_by(self) -> Pooling | None:
        """Return the pooling asked for, None where the base decides."""
        return None if self.pooling == "auto" else self.pooling

    def adapter(self, blocks: int) -> FitConfig:
        """Return the settings of an adapter on a base of so many blocks, as experts of language have them."""
        return FitConfig(
            rank=self.rank,
            alpha=2.0 * self.rank if self.alpha is None else self.alpha,
            targets=self.targets,
            layers=self.layers_of(blocks),
            seed=self.seed,
        )

    def layers_of(self, blocks: int) -> str | tuple[int, ...]:
        """Return the layers asked for; `top:K` of a base with fewer than K blocks is all of them."""
        if isinstance(self.layers, str) and self.layers.startswith("top:"):
            wanted = self.layers.removeprefix("top:")
            if not wanted.isdigit() or not int(wanted):
                raise ConfigError(f"layers are `all`, `top:K` or block numbers, got {self.layers!r}.")
            return "all" if int(wanted) >= blocks else self.layers
        return self.layers

    def loop(self, pairs: int, *, kind: Trained) -> LoopConfig:
        """Return the fit loop's settings for so many training pairs; what was not asked for is the kind's own."""
        passes = PASSES[kind] if self.passes is None else self.passes
        steps = max(1, round(passes * pairs / self.batch))
        return LoopConfig(
            steps,
            RATES[kind] if self.learning_rate is None else self.learning_rate,
            warmup_steps=round(self.warmup * steps),
            weight_decay=self.weight_decay,
            clip=self.clip,
            evaluate_every=max(1, -(-steps // self.measures)),
        )

    def head_rate(self, kind: Trained) -> float:
        """Return what a head's learning rate is of the others'."""
        return HEAD_RATE / RATES[kind]

    def recipe(self) -> dict[str, Any]:
        """Return the settings as a card keeps them."""
        return {**asdict(self), "targets": None if self.targets is None else list(self.targets)}
