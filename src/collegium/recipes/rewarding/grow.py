"""`reward grow` and `reward drop`: domains that come and go, the others' judges untouched."""

import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import OmitArgPrefixes, Positional

from collegium.data.preferences import PairCorpus, PairDomain
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.rewarding.fit import chosen_pairs
from collegium.recipes.rewarding.opening import OpenedReward, open_reward_reference, settings_of
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.watch import Watch
from collegium.rewards import Growth, Making, drop, grow, newcomers


@dataclass(frozen=True)
class RewardGrowConfig:
    """Add domains to a routed reward model: a judge each, fitted as the others were, and the router refreshed."""

    data: Positional[Path]
    """A folder or file of pairs; domains that the model has already are left alone."""
    model: str = field(kw_only=True)
    """The reward model: LIB#NAME."""
    domains: tuple[str, ...] = ()
    """Only these domains."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: chosen=better."""
    domain_column: str = ""
    """A column that names each row's domain, in place of files and folders."""
    drop_unusable: bool = False
    """Leave out and count pairs with equal answers or without text."""
    out: Path | None = None
    """Where interrupted fits lie; default runs/reward-grow-HASH."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class RewardDropConfig:
    """Take a domain out of a routed reward model; its judge goes, the others stay as they are."""

    domain: Positional[str]
    """Which one."""
    model: str = field(kw_only=True)
    """The reward model: LIB#NAME."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run_grow(config: RewardGrowConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: which domains came, what moved, seconds and examples."""
    start = time.perf_counter()
    corpus = chosen_pairs(config)
    opened = open_reward_reference(config.model, config.common, writable=True)
    folder = run_folder("reward grow", config, config.out) / "checkpoints"
    making = making_of(opened, corpus, watch=watch, folder=folder)
    newcomers(making)  # what cannot come is told before anything is made
    make_folder(folder.parent)
    growth = grow(making)
    shutil.rmtree(folder, ignore_errors=True)
    return _told("reward grow", config, growth, watch=watch, start=start)


def run_drop(config: RewardDropConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: which domain left, what moved, seconds."""
    start = time.perf_counter()
    opened = open_reward_reference(config.model, config.common, writable=True)
    some = PairCorpus((PairDomain(config.domain, ()),))  # nothing is read of a domain that leaves
    growth = drop(making_of(opened, some, watch=watch, folder=None), config.domain)
    return _told("reward drop", config, growth, watch=watch, start=start)


def making_of(opened: OpenedReward, corpus: PairCorpus, *, watch: Watch, folder: Path | None) -> Making:
    """Return what the growth of a reward model works with, its settings those of its judges."""
    judge = next(name for name in opened.members if opened.library.card(name).task == "reward")
    return Making(
        opened.base,
        opened.library,
        corpus,
        opened.name,
        config=settings_of(opened.library[judge]),
        folder=folder,
        begin=lambda label, steps: StepBar(watch.begin(f"fitting {label}", steps)),
    )


def _told(command: str, config: object, growth: Growth, *, watch: Watch, start: float) -> RunCard:
    moved = sum(each for each, _ in growth.moved.values())
    count = sum(count for _, count in growth.moved.values())
    watch.say(
        f"domains now: {', '.join(growth.domains)}; {moved} of {count} remembered prompts of those that stayed go to "
        f"another judge than before; {growth.pairs} pairs and {growth.prompts} prompts were read"
    )
    seconds = time.perf_counter() - start
    return make_card(command, config, {**growth.to_dict(), "seconds": round(seconds, 3)}, seconds)
