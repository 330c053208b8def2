"""The settings of a stream of tasks, checked all at once."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from tyro.conf import Suppress

from collegium.core.errors import ConfigError
from collegium.experts import FitConfig
from collegium.rewards.texts import MINIMUM_TOKENS
from collegium.train import LoopConfig, check_rules

Setup = Literal["class", "task"]
"""What competes at test: the labels of all tasks seen so far, or those of the text's own task."""

SETUPS: tuple[str, ...] = get_args(Setup)
PASSES = {"heads": 8.0, "words": 2.0}
"""How often each training row is read where it is not said: a head begins with nothing, words are known."""
SHARE_OF_BLOCKS = 3
"""Adapters change the top third of a base's blocks where it is not said."""


@dataclass(frozen=True)
class ContinualConfig:
    """Settings that every method is given alike."""

    setup: Setup = "class"
    """class: at test the labels of all tasks seen so far compete; task: those of the text's own task."""
    train_rows: int = 256
    """At most this many rows of each task to learn from, a dev part included; 0 = all."""
    dev_rows: int = 32
    """At most this many of them to choose by, never more than a quarter."""
    test_rows: int = 100
    """At most this many rows of each task to judge by; 0 = all."""
    text_tokens: int = 64
    """The most tokens of a text, its first."""
    memory: int = 16
    """Rows of each class that are remembered of earlier tasks; 0 = none."""
    kind: Literal["lora", "bottleneck", "prefix"] = "lora"
    """What an adapter changes: linear layers, feed-forward blocks, attention."""
    rank: int = 8
    """Rank (lora) or width (bottleneck) of the adapters."""
    prefix_tokens: int = 0
    """Positions of a prefix; 0 = as many as make it as large as a low-rank adapter of this rank."""
    layers: str = ""
    """`all` or `top:K`; nothing said = the top third."""
    template: str = "\nLabel:"
    """What a decoder reads behind a text; the label's words follow. Encoders have a head a task in its place."""
    passes: float | None = None
    """How often each training row is read; None = eight times with heads, twice with words."""
    batch: int = 16
    """Rows read at once."""
    rates: tuple[float, ...] = (3e-4, 1e-3, 3e-3)
    """Learning rates that each method chooses from, on the dev rows of the first two tasks of the first order."""
    head_rate: float = 1.0
    """A head's learning rate, as a share of the adapter's."""
    router_steps: int = 120
    """Steps in which a learned router reads the memory, however many tasks there are."""
    router_rate: float = 0.03
    """Peak learning rate of a learned router."""
    temperature: float = 1.0
    """Of learned gates (tau)."""
    states_mb: int = 2048
    """Megabytes of memory for the states below the adapters, computed once for all methods; 0 = none are kept."""
    seed: Suppress[int] = 0
    """Of rows, first weights and orders."""
    threads: Suppress[int | None] = None
    """Processor threads; None = as many as torch uses here."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        passes, rates = self.passes, self.rates
        rules = [
            ("setup", self.setup, self.setup in SETUPS, f"is {' or '.join(SETUPS)}"),
            ("train_rows", self.train_rows, self.train_rows == 0 or self.train_rows >= 8, "is at least 8, or 0"),
            ("dev_rows", self.dev_rows, self.dev_rows >= 1, "is at least 1"),
            ("test_rows", self.test_rows, self.test_rows >= 0, "is not negative"),
            ("text_tokens", self.text_tokens, self.text_tokens >= MINIMUM_TOKENS, f"is at least {MINIMUM_TOKENS}"),
            ("memory", self.memory, self.memory >= 0, "is not negative"),
            ("rank", self.rank, self.rank >= 1, "is at least 1"),
            ("prefix_tokens", self.prefix_tokens, self.prefix_tokens >= 0, "is not negative"),
            ("passes", passes, passes is None or 0 < passes < math.inf, "is positive and finite"),
            ("batch", self.batch, self.batch >= 1, "is at least 1"),
            ("rates", rates, bool(rates) and all(0 < each < math.inf for each in rates), "are positive, one at least"),
            ("head_rate", self.head_rate, 0 < self.head_rate < math.inf, "is positive and finite"),
            ("router_steps", self.router_steps, self.router_steps >= 1, "is at least 1"),
            ("router_rate", self.router_rate, 0 < self.router_rate < math.inf, "is positive and finite"),
            ("temperature", self.temperature, 0 < self.temperature < math.inf, "is positive and finite"),
            ("states_mb", self.states_mb, self.states_mb >= 0, "is not negative"),
        ]
        check_rules(rules, what="settings of a stream of tasks")

    def layers_of(self, blocks: int) -> str:
        """Return the layers that adapters change on a base of so many blocks."""
        if not self.layers:
            return f"top:{max(1, blocks // SHARE_OF_BLOCKS)}"
        if self.layers.startswith("top:"):
            wanted = self.layers.removeprefix("top:")
            if not wanted.isdigit() or not int(wanted):
                raise ConfigError(f"layers are `all` or `top:K`, got {self.layers!r}.")
            return "all" if int(wanted) >= blocks else self.layers
        return self.layers

    def loop(self, rows: int, *, readout: Literal["heads", "words"], rate: float) -> LoopConfig:
        """Return the fit loop's settings for so many rows."""
        passes = PASSES[readout] if self.passes is None else self.passes
        steps = max(1, round(passes * rows / self.batch))
        return LoopConfig(
            steps, rate, warmup_steps=round(0.08 * steps), weight_decay=0.01, evaluate_every=max(1, -(-steps // 4))
        )

    def recipe(self) -> dict[str, Any]:
        """Return the settings as plain values."""
        return {**asdict(self), "rates": list(self.rates)}


def adapter_config(config: ContinualConfig, blocks: int) -> FitConfig:
    """Return the settings of one adapter on a base of so many blocks, as experts of language have them."""
    return FitConfig(
        kind=config.kind,
        rank=config.rank,
        alpha=2.0 * config.rank,
        prefix_tokens=max(1, config.prefix_tokens),
        layers=config.layers_of(blocks),
        seed=config.seed,
    )
