"""The settings of a mixture of task adapters, checked all at once."""

import math
from dataclasses import asdict, dataclass
from typing import Any

from tyro.conf import Suppress

from collegium.core.errors import ConfigError
from collegium.experts import FitConfig
from collegium.train import LoopConfig, check_rules

MINIMUM_TOKENS = 8


@dataclass(frozen=True)
class MultitaskConfig:
    """Settings of many tasks learnt together. Equal settings, base and rows give equal weights on a processor."""

    text_tokens: int = 64
    """The most tokens of a prompt and its completion together; a prompt that is too long keeps its last."""
    train_rows: int = 256
    """At most this many rows of each task to learn from; 0 = all."""
    dev_rows: int = 32
    """At most this many more rows of each task to choose the best step by."""
    test_rows: int = 100
    """At most this many test rows of each task; 0 = all."""
    passes: float = 3.0
    """How often each row is read in the first stage."""
    inter_share: float = 0.08
    """Steps of the second stage, as a share of those of the first, all tasks together."""
    batch: int = 8
    """Rows read at once."""
    layers: str | tuple[int, ...] = "top:10"
    """The layers that have adapters: `all`, `top:K` (all, where there are fewer), or block numbers."""
    rank: int = 32
    """Width of each adapter."""
    gate_size: int = 8
    """The size of a gate's queries and keys."""
    task_size: int = 8
    """The size of the vector of a task that gates are told."""
    top_k: int = 2
    """How many adapters a sparse gate (tamoe, moe) keeps."""
    learning_rate: float = 1e-3
    """The peak of adapters."""
    gate_learning_rate: float = 0.1
    """The peak of gates and task vectors."""
    warmup: float = 0.08
    """Share of the steps in which the learning rate grows to its peak; afterwards a cosine to a tenth."""
    weight_decay: float = 0.01
    """AdamW's, on matrices alone."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    measures: int = 4
    """How often the dev loss is measured; the weights of the best are kept."""
    states_mb: int = 1024
    """Megabytes of memory that the states below the adapters may take; 0 = none are kept."""
    seed: Suppress[int] = 0
    """Of the first weights and the order of rows."""
    threads: Suppress[int | None] = None
    """Processor threads; None = as many as torch uses here."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rules = [
            ("text_tokens", self.text_tokens, self.text_tokens >= MINIMUM_TOKENS, f"is at least {MINIMUM_TOKENS}"),
            *((name, getattr(self, name), getattr(self, name) >= 0, "is not negative") for name in _COUNTS),
            *((name, getattr(self, name), getattr(self, name) >= 1, "is at least 1") for name in _NUMBERS),
            *((name, value, 0 < value < math.inf, "is positive and finite") for name, value in self._rates()),
            ("inter_share", self.inter_share, 0 <= self.inter_share <= 1, "lies in [0, 1]"),
            ("warmup", self.warmup, 0 <= self.warmup <= 1, "lies in [0, 1]"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "is not negative and finite"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "is at least 1"),
        ]
        check_rules(rules, what="settings of many tasks")

    def _rates(self) -> list[tuple[str, float]]:
        return [(name, getattr(self, name)) for name in ("passes", "learning_rate", "gate_learning_rate", "clip")]

    def adapter(self, blocks: int, *, rank: int | None = None) -> FitConfig:
        """Return the settings of an adapter on a base of so many blocks; rank: None = the settings' own."""
        width = self.rank if rank is None else rank
        return FitConfig(
            kind="bottleneck", rank=width, alpha=2.0 * width, layers=self.layers_of(blocks), seed=self.seed
        )

    def layers_of(self, blocks: int) -> str | tuple[int, ...]:
        """Return the layers asked for; `top:K` of a base with fewer than K blocks is all of them."""
        if isinstance(self.layers, str) and self.layers.startswith("top:"):
            wanted = self.layers.removeprefix("top:")
            if not wanted.isdigit() or not int(wanted):
                raise ConfigError(f"layers are `all`, `top:K` or block numbers, got {self.layers!r}.")
            return "all" if int(wanted) >= blocks else self.layers
        return self.layers

    def steps(self, rows: int) -> int:
        """Return the updates of a first stage over so many rows."""
        return max(1, round(self.passes * rows / self.batch))

    def inter_steps(self, steps: int) -> int:
        """Return the updates of the second stage after so many of the first; 0 leaves the gates even."""
        return 0 if not self.inter_share else max(1, round(self.inter_share * steps))

    def loop(self, steps: int, rate: float, *, measures: int | None = None) -> LoopConfig:
        """Return the fit loop's settings of so many updates; measures: None = the settings' own."""
        return LoopConfig(
            steps,
            rate,
            warmup_steps=round(self.warmup * steps),
            weight_decay=self.weight_decay,
            clip=self.clip,
            evaluate_every=max(1, -(-steps // (measures or self.measures))),
        )

    def recipe(self) -> dict[str, Any]:
        """Return the settings as a card keeps them."""
        found = asdict(self)
        return {**found, "layers": list(self.layers) if isinstance(self.layers, tuple) else self.layers}


_COUNTS = ("train_rows", "test_rows", "states_mb")
_NUMBERS = ("dev_rows", "batch", "rank", "gate_size", "task_size", "top_k", "measures")
