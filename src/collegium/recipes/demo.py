"""`demo`: `build` on four domains of real text with the default base."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes

from collegium.data import pull
from collegium.experts import FitConfig
from collegium.recipes import build
from collegium.recipes.common import Common
from collegium.recipes.opening import DEFAULT_BASE
from collegium.recipes.run_card import RunCard
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class DemoConfig:
    """Build a college of four experts (code, speeches, drama, chat) on the default base, with a report."""

    folder: Path = Path("runs/demo")
    """Where texts, library and report go."""
    base: str = DEFAULT_BASE
    """The base model."""
    budget: str = "reduced"
    """`reduced` (10 minutes), a time (30m), tokens an expert (200k), or `full` (dense baselines too)."""
    dry_run: bool = False
    """Measure and show the plan, then stop; the texts are fetched first where they are not there."""
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=lambda: FitConfig(layers="top:10", steps=build.FULL_STEPS))
    """How each expert is trained; --steps counts under `--budget full`, every other budget decides it."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def build_config(config: DemoConfig) -> build.BuildConfig:
    """Return the build that a demo is."""
    return build.BuildConfig(
        data=config.folder / "texts",
        library=config.folder / "library",
        base=config.base,
        budget=config.budget,
        out=config.folder,
        dry_run=config.dry_run,
        fit=config.fit,
        common=config.common,
    )


def run(config: DemoConfig, *, watch: Watch) -> RunCard:
    """Return the run's card, as `build` does, after fetching the texts."""
    resolved = build_config(config)
    build.check_settings(resolved)
    if not resolved.data.exists():
        watch.say("fetching the demo texts: code, speeches, drama, chat")
        pull(resolved.data)
    return build.run(resolved, watch=watch, command="demo")
