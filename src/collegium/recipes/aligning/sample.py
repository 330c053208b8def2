"""`align sample`: texts of a target without training, by quasi-rejection, resampling, or best of n."""

import time
from dataclasses import dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from collegium.align.config import AlignConfig
from collegium.align.draws import Drawing, as_prompt
from collegium.align.sampling import Sampled, best_of, quasi_rejection, resampled
from collegium.align.target import Target
from collegium.core.errors import ConfigError
from collegium.core.randomness import generator
from collegium.core.samples import plain_text
from collegium.recipes.aligning.opening import read_prompts
from collegium.recipes.aligning.preflight import look_ahead
from collegium.recipes.aligning.run import draws_of
from collegium.recipes.aligning.wishes import read_target
from collegium.recipes.common import Common
from collegium.recipes.opening import open_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class AlignSampleConfig:
    """Draw texts of a target without training, and say how near their distribution is to it."""

    target: str = field(kw_only=True)
    """What is wanted: 'contains("she")', 'moment(female()) == 0.5', 'reward("LIB#NAME", beta=0.1)', products by *."""
    model: str = "smollm2-135m"
    """Who proposes: a base, LIB#NAME (an aligned policy accepts more), or a composition."""
    original: str = ""
    """The original model a of the target; default = the proposal itself."""
    prompt: str = field(kw_only=True)
    """What texts go on from."""
    qrs: bool = False
    """Quasi-rejection sampling: accept with probability min(1, P / (beta q)). The default way."""
    snis: bool = False
    """Draw again from the proposal's texts by their weights."""
    best_of: int = 0
    """Keep the best of so many texts, by the features' reward."""
    samples: int = 16
    """Texts that are wanted."""
    rate: float = 0.05
    """Quasi-rejection: the share of texts that is accepted; smaller is nearer to the target."""
    most: int = 4096
    """Texts of the proposal that are drawn at most."""
    pool: int = 640
    """Texts of the original on which the target's moments are found."""
    tokens: int = 32
    """New tokens in a text at most."""
    batch: int = 64
    """Texts drawn at once."""
    allow_code: bool = False
    """Run functions of your own that the target names."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: AlignSampleConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: texts and how near their distribution is to the target's."""
    start = time.perf_counter()
    if sum((config.qrs, config.snis, bool(config.best_of))) > 1:
        raise ConfigError("--qrs, --snis and --best-of are three ways to draw; give one of them.")
    proposal = open_reference(config.model, config.common, watch=watch).model
    original = proposal if not config.original else open_reference(config.original, config.common, watch=watch).model
    target = Target(original, read_target(config.target, config.common, allow_code=config.allow_code))
    if target.moments:
        settings = AlignConfig(samples=config.batch, batch=config.batch, tokens=config.tokens, seed=config.common.seed)
        prompts = read_prompts(config.prompt, None, original)
        target = look_ahead(
            target, draws_of(original, prompts, config.pool, settings, label="pool", watch=watch)
        ).solved.target
    found = sampled(config, target, proposal, watch=watch)
    seconds = time.perf_counter() - start
    return make_card("align sample", config, described(config, target, found, seconds), seconds)


def sampled(config: AlignSampleConfig, target: Target, proposal: Any, *, watch: Watch) -> Sampled:  # noqa: ANN401
    """Return texts by the way that was chosen."""
    update = watch.begin("drawing", config.samples)
    shared: dict[str, Any] = {
        "many": config.samples,
        "drawing": Drawing(config.tokens, 1.0, config.batch),
        "random": generator(config.common.seed, "align sample"),
        "progress": lambda done: update(min(done, config.samples)),
    }
    prompt = as_prompt(config.prompt, proposal)
    if config.best_of:
        return best_of(target, proposal, prompt, of=config.best_of, **shared)
    if config.snis:
        return resampled(target, proposal, prompt, drawn=config.most, **shared)
    return quasi_rejection(target, proposal, prompt, rate=config.rate, most=config.most, **shared)


def described(config: AlignSampleConfig, target: Target, found: Sampled, seconds: float) -> dict[str, Any]:
    """Return the object of `align sample --json`."""
    values = target.values(found.draws.samples)
    rows = [
        {"text": plain_text(sample.completion), **{name: float(each[row]) for name, each in values.items()}}
        for row, sample in enumerate(found.draws.samples)
    ]
    return {
        "way": "best of n" if config.best_of else "snis" if config.snis else "qrs",
        "target": config.target,
        "samples": rows,
        "drawn": found.drawn,
        "acceptance": found.acceptance,
        "effective": found.effective,
        "log_beta": found.log_beta,
        "tv": found.tv,
        "kl": found.kl,
        "moments": {name: float(each.mean()) for name, each in values.items()},
        "seconds": round(seconds, 3),
    }
