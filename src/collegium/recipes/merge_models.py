"""`library merge-models`: whole models into one, by a recipe."""

import dataclasses
import time
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError
from collegium.experts.streaming import MergeRecipe, Progress, merge_models, plan_merge, read_recipe
from collegium.recipes.common import Common
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Update, Watch


@dataclass(frozen=True)
class MergeModelsConfig:
    """Merge whole models into a new one, a tensor at a time, by a recipe in mergekit's YAML."""

    recipe: Positional[Path]
    """The recipe: merge_method (linear, task_arithmetic, ties, dare_linear, dare_ties), models, base_model."""
    out: Path
    """The new model's folder."""
    dry_run: bool = False
    """Check the models and say what the result would take, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed (of what dare drops, unless the recipe has one) and machine."""


def run(config: MergeModelsConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result says what was written and how large it is."""
    start = time.perf_counter()
    config.common.apply_threads()
    recipe = _recipe(config)
    if config.dry_run:
        found = plan_merge(recipe, config.out)
    else:
        watch.say(f"merging {len(recipe.changes)} models by {recipe.method} into {config.out}")
        found = merge_models(recipe, config.out, progress=_bar(watch))
    result = {
        "method": recipe.method,
        "models": [each.model for each in recipe.models],
        **dataclasses.asdict(found),
        "folder": str(found.folder),
        "written": not config.dry_run,
    }
    return make_card("library merge-models", config, result, time.perf_counter() - start)


def _recipe(config: MergeModelsConfig) -> MergeRecipe:
    try:
        text = config.recipe.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"the merge recipe {config.recipe} cannot be read ({error}).") from error
    found = read_recipe(text)
    return found if found.seed else dataclasses.replace(found, seed=config.common.seed)


def _bar(watch: Watch) -> Progress:
    """Return what shows a bar once the size is known."""
    bars: list[Update] = []

    def progress(done: int, whole: int) -> None:
        if not bars:
            bars.append(watch.begin("megabytes written", max(1, whole // 1_000_000)))
        bars[0](done // 1_000_000)

    return progress
