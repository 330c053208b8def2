"""`align eval`: what a policy is like beside its original: distances from a target, diversity, what it forgot."""

import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from collegium.align.config import AlignConfig
from collegium.align.metrics import measure
from collegium.align.target import Target
from collegium.core.errors import ConfigError
from collegium.recipes.aligning.general import general_text
from collegium.recipes.aligning.opening import read_prompts
from collegium.recipes.aligning.preflight import look_ahead
from collegium.recipes.aligning.run import draws_of
from collegium.recipes.aligning.wishes import read_target
from collegium.recipes.common import Common
from collegium.recipes.opening import Opened, open_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class AlignEvalConfig:
    """Measure a policy: how near it is to a target, how far from its original, how diverse, what it forgot."""

    model: str = field(kw_only=True)
    """The policy, LIB#NAME, or any other model."""
    target: str = ""
    """What it is measured against; default = what its card says it was moved to."""
    original: str = ""
    """The original model; default = what its card says."""
    prompt: str = ""
    """What texts go on from; default = what its card says."""
    prompts: Path | None = None
    """In place of one prompt, a file with one a line."""
    pool: int = 640
    """Texts of the original model that the target is looked at on."""
    fresh: int = 256
    """Texts of the policy."""
    tokens: int = 32
    """New tokens in a text at most."""
    batch: int = 64
    """Texts drawn at once."""
    general: Path | None = None
    """Texts by whose perplexity is seen what was forgotten; default = the four demo domains."""
    allow_code: bool = False
    """Run functions of your own that the target names."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: AlignEvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: the metrics of the original and of the policy."""
    start = time.perf_counter()
    opened = open_reference(config.model, config.common, watch=watch)
    config = filled(config, opened)
    original = open_reference(config.original, config.common, watch=watch).model
    parts = read_target(config.target, config.common, allow_code=config.allow_code)
    prompts = read_prompts(config.prompt, config.prompts, original)
    settings = AlignConfig(samples=config.batch, batch=config.batch, tokens=config.tokens, seed=config.common.seed)
    pool = draws_of(original, prompts, config.pool, settings, label="pool", watch=watch)
    ahead = look_ahead(Target(original, parts), pool)
    general = general_text(config.general, opened.base.tokenizer, watch=watch)
    found = {}
    for label, model in (("before", original), ("after", opened.model)):
        fresh = draws_of(model, prompts, config.fresh, settings, label=label, watch=watch)
        found[label] = measure(model, ahead.solved.target, ahead.pool, fresh, general=general).to_dict()
    seconds = time.perf_counter() - start
    result = {
        "model": config.model,
        "original": config.original,
        "target": config.target,
        "prompt": config.prompt or str(config.prompts),
        **found,
        "ahead": ahead.to_json(),
        "seconds": round(seconds, 3),
    }
    return make_card("align eval", config, result, seconds)


def filled(config: AlignEvalConfig, opened: Opened) -> AlignEvalConfig:
    """Return the configuration with what the policy's card says where nothing is given; raises ConfigError."""
    member, recipe = opened.reference.member, {}
    if opened.library is not None and member is not None and member in opened.library.filter(None):
        recipe = dict(opened.library.filter(None).card(member).recipe)
    prompts, original = recipe.get("prompts") or [""], str(recipe.get("original", ""))
    if original.startswith(("?", "#")):
        original = f"{opened.reference.library}{original}"
    config = replace(
        config,
        target=config.target or str(recipe.get("target", "")),
        original=config.original or original,
        prompt=config.prompt or ("" if config.prompts else str(prompts[0])),
    )
    missing = [f"--{name}" for name in ("target", "original") if not getattr(config, name)]
    if missing:
        raise ConfigError(f"{config.model} has no card that says what it was moved to; give {' and '.join(missing)}.")
    return config
