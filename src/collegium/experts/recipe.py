"""What an expert is made by: every setting that decides its weights, resolved before the first step."""

import contextlib
import dataclasses
import json
import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from tyro.conf import Suppress

from collegium.core.cards import Kind, to_json
from collegium.models import Base
from collegium.train import LoopConfig, check_rules

AdapterKind = Literal["lora", "ia3", "bottleneck", "ffn", "prefix"]
"""What a small expert can be: a row in the tables here and in `collegium.experts.fresh` and `.formats`."""

LEARNING_RATES: Mapping[Kind, float] = {
    "lora": 1e-3,
    "ia3": 1e-2,
    "bottleneck": 1e-3,
    "ffn": 2e-4,
    "prefix": 1e-2,
    "whole": 2e-4,
}
"""Peak learning rates where none is given. Papers: IA3 3e-3 with Adafactor; parallel bottlenecks and prefixes 5e-5 to
1e-3 over many epochs; ours are for tens of steps."""

SETTINGS: Mapping[Kind, tuple[str, ...]] = {
    "lora": ("rank", "alpha", "targets", "layers", "trunk_cache_mb"),
    "ia3": ("targets", "layers", "trunk_cache_mb"),
    "bottleneck": ("rank", "alpha", "layers", "trunk_cache_mb"),
    "ffn": ("layers", "trunk_cache_mb"),
    "prefix": ("prefix_tokens", "layers", "trunk_cache_mb"),
    "whole": (),
}
"""Kind -> the settings that not every kind heeds, but this one does."""

_SOME = ("rank", "alpha", "targets", "layers", "prefix_tokens", "trunk_cache_mb")


@dataclass(frozen=True)
class FitConfig:
    """Settings of one expert. Equal settings, base and documents give equal weights, bit for bit on a processor.

    There is no dropout: small experts are held back by early stop on the domain's own held-out text.
    """

    kind: AdapterKind = "lora"
    """What an expert changes: lora and ia3 linear layers, bottleneck and ffn feed-forward blocks, prefix attention."""
    rank: int = 16
    """Rank of the change of each layer (lora), width of the small network (bottleneck)."""
    alpha: float | None = None
    """The change is scaled by alpha / rank (lora, bottleneck); None = twice the rank."""
    prefix_tokens: int = 16
    """Positions of keys and values before the text's own (prefix)."""
    targets: tuple[str, ...] | str | None = None
    """Names of layers as paths end (`q_proj`), or a pattern (lora, ia3); None = every linear layer in a block (lora),
    keys, values and the feed-forward block's last (ia3)."""
    layers: str | tuple[int, ...] = "all"
    """`all`, `top:K`, or block numbers; the blocks below the first one changed are run without gradients, and for
    windows that are read again only once."""
    trunk_cache_mb: int = 1024
    """Megabytes of disk that the hidden states below the first changed block may take while an expert is trained, each
    window's from its first reading on; beyond it they are computed at each reading, as with 0."""
    steps: int = 60
    """Updates of the weights."""
    batch: int = 4
    """Windows read at once."""
    window: int = 128
    """Tokens in a window."""
    accumulation: int = 1
    """Batches added up for one update."""
    learning_rate: float | None = None
    """Its peak; None = the kind's own: 0.001 lora and bottleneck, 0.01 ia3 and prefix, 0.0002 ffn and whole models."""
    warmup: float = 0.08
    """Share of the steps in which the learning rate grows to its peak; afterwards a cosine to a tenth."""
    weight_decay: float = 0.01
    """AdamW's, on matrices alone."""
    clip: float = 1.0
    """Largest norm of a gradient."""
    evaluate_every: int = 20
    """Steps between two measurements of the held-out loss."""
    patience: int = 3
    """Measurements without improvement after which training stops; 0 = never."""
    dev_tokens: int = 2048
    """At most this many held-out tokens are measured each time."""
    seed: Suppress[int] = 0  # a command has one seed and one number of threads, given elsewhere
    """Of the first weights, the packing and the order of windows, each drawn apart under the domain's name."""
    threads: Suppress[int | None] = None
    """Processor threads; part of the recipe, since another number of threads adds up in another order. None = as many
    as torch uses here."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rate = self.learning_rate
        rules = [
            ("rank", self.rank, self.rank >= 1, "is at least 1"),
            ("prefix_tokens", self.prefix_tokens, self.prefix_tokens >= 1, "is at least 1"),
            ("alpha", self.alpha, self.alpha is None or 0 < self.alpha < math.inf, "is positive and finite"),
            ("trunk_cache_mb", self.trunk_cache_mb, self.trunk_cache_mb >= 0, "is not negative"),
            ("steps", self.steps, self.steps >= 1, "is at least 1"),
            ("batch", self.batch, self.batch >= 1, "is at least 1"),
            ("window", self.window, self.window >= 2, "is at least 2"),
            ("accumulation", self.accumulation, self.accumulation >= 1, "is at least 1"),
            ("learning_rate", rate, rate is None or 0 < rate < math.inf, "is positive and finite"),
            ("warmup", self.warmup, 0 <= self.warmup <= 1, "lies in [0, 1]"),
            ("weight_decay", self.weight_decay, 0 <= self.weight_decay < math.inf, "is not negative and finite"),
            ("clip", self.clip, 0 < self.clip < math.inf, "is positive and finite"),
            ("evaluate_every", self.evaluate_every, self.evaluate_every >= 1, "is at least 1"),
            ("patience", self.patience, self.patience >= 0, "is not negative"),
            ("dev_tokens", self.dev_tokens, self.dev_tokens >= 2, "is at least 2"),
            ("threads", self.threads, self.threads is None or self.threads >= 1, "is at least 1"),
        ]
        check_rules(rules, what="settings of an expert")

    @property
    def tokens_per_step(self) -> int:
        """The most tokens that one update reads."""
        return self.batch * self.window * self.accumulation


def resolve(config: FitConfig, kind: Kind | None = None) -> FitConfig:
    """Return the settings with every None that stands for a number replaced by it.

    kind: of the expert; default = the settings' own.

    Raises ConfigError for settings that this kind would not heed.

    >>> resolve(FitConfig(rank=8)).alpha
    16.0
    """
    kind = kind or config.kind
    rate = LEARNING_RATES[kind] if config.learning_rate is None else config.learning_rate
    config = dataclasses.replace(config, learning_rate=rate, threads=config.threads or torch.get_num_threads())
    plain = FitConfig()
    rules = [
        (name, getattr(config, name), getattr(config, name) == getattr(plain, name), f"is for {_who_heeds(name)} alone")
        for name in _SOME
        if name not in SETTINGS[kind]
    ]
    if kind == "whole":
        rules.append(("kind", config.kind, config.kind == plain.kind, "is for small experts alone"))
    what = (
        "a whole model (--whole), all of whose weights are trained" if kind == "whole" else f"an expert of kind {kind}"
    )
    check_rules(rules, what=f"settings of {what}")
    if "alpha" in SETTINGS[kind] and config.alpha is None:
        return dataclasses.replace(config, alpha=2.0 * config.rank)
    return config


def _who_heeds(setting: str) -> str:
    kinds = [kind for kind, settings in SETTINGS.items() if setting in settings]
    return "small experts" if len(kinds) == len(SETTINGS) - 1 else " and ".join(kinds)


def loop_config(config: FitConfig) -> LoopConfig:
    """Return the fit loop's settings of a resolved recipe."""
    return LoopConfig(
        config.steps,
        LEARNING_RATES[config.kind] if config.learning_rate is None else config.learning_rate,
        warmup_steps=round(config.warmup * config.steps),
        weight_decay=config.weight_decay,
        clip=config.clip,
        accumulation=config.accumulation,
        evaluate_every=config.evaluate_every,
        patience=config.patience,
    )


def recipe_of(config: FitConfig, kind: Kind, base: Base) -> dict[str, Any]:
    """Return what the card says of the making: resolved settings, those of the loop, dtype and device; plain JSON."""
    settings = dataclasses.asdict(config)
    nothing_below = ("trunk_cache_mb",) if config.layers == "all" else ()
    for name in {"kind", *(name for name in _SOME if name not in SETTINGS[kind]), *nothing_below}:
        del settings[name]
    loop = {name: value for name, value in dataclasses.asdict(loop_config(config)).items() if name not in settings}
    place = {"dtype": str(base.dtype).removeprefix("torch."), "device": base.device.type}
    return json.loads(to_json({"method": f"fit {kind}", **settings, **place, "loop": loop}))


@contextlib.contextmanager
def using_threads(count: int) -> Iterator[None]:
    """Let torch use this many processor threads inside the `with`."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def memory_flags(config: FitConfig, kind: Kind) -> str:
    """Return which flags to lower when memory is exhausted, as `memory_errors` says it."""
    return (
        f"--batch (now {config.batch}; raise --accumulation by as much for the same result), --window (now "
        f"{config.window})" + (" or --workers" if kind == "whole" else ", --workers, or --layers to top:K")
    )
