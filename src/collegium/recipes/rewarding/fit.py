"""`reward fit`: one reward model of a design, its judges fitted one by one and kept in a library."""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.errors import ConfigError, NameTaken
from collegium.core.names import check_name
from collegium.core.tables import nearest
from collegium.data.preference_reading import read_preferences
from collegium.data.preferences import PairCorpus
from collegium.library import Library
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.opening import DEFAULT_BASE, kept_reference, open_base
from collegium.recipes.reference import is_library
from collegium.recipes.rewarding.plan import make_reward_plan
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.watch import Watch
from collegium.rewards import DESIGNS, Design, DesignOptions, Making, RewardConfig, lessons_of, open_reward


@dataclass(frozen=True)
class RewardFitConfig:
    """Fit a reward model on preference pairs: joint, multi, more, rodos or arliss; fitted members are left alone."""

    data: Positional[Path]
    """A folder or file of pairs, one sub-folder or file per domain."""
    library: Path = field(kw_only=True)
    """Where judges and router go; made when it is not there."""
    name: Annotated[str, arg(name="as")] = field(kw_only=True)
    """What the reward model is called in the library."""
    design: str = "arliss"
    """joint (one judge), multi (a head of several outputs), more (experts inside), rodos (a whole model a domain) or
    arliss (an adapter a domain)."""
    base: str = DEFAULT_BASE
    """The base model: smollm2-135m, minilm-l6, a folder, or hf:owner/name@revision."""
    domains: tuple[str, ...] = ()
    """Only these domains."""
    budget: str = "reduced"
    """`reduced` (the settings below as they are) or `full` (all pairs of each domain)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: chosen=better."""
    domain_column: str = ""
    """A column that names each row's domain, in place of files and folders."""
    drop_unusable: bool = False
    """Leave out and count pairs with equal answers or without text."""
    out: Path | None = None
    """Where interrupted fits lie; default runs/reward-fit-HASH."""
    dry_run: bool = False
    """Measure and show what would be done, then stop."""
    fit: OmitArgPrefixes[RewardConfig] = field(default_factory=RewardConfig)
    """Settings of the judges."""
    options: OmitArgPrefixes[DesignOptions] = field(default_factory=DesignOptions)
    """Settings of single designs."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: RewardFitConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: members with their figures, parameters, seconds."""
    start = time.perf_counter()
    design = design_named(config.design)
    check_name(config.name, what="model")
    corpus = chosen_pairs(config)
    base = open_base(config.base, config.common)
    settings = resolve_settings(config)
    if is_library(str(config.library)):
        check_new(Library(config.library, base=base, read_only=True), config)
    lessons = lessons_of(base, corpus, name=config.name, design=design, config=settings, options=config.options)
    if config.dry_run:
        plan = make_reward_plan(base, corpus, lessons, design=design, config=settings, options=config.options)
        for line in plan.lines():
            watch.say(line)
        return make_card("reward fit", config, {"plan": plan.to_json()}, time.perf_counter() - start)
    folder = make_folder(run_folder("reward fit", config, config.out))
    library = Library(config.library, base=base, base_reference=kept_reference(config.base))
    making = Making(
        base,
        library,
        corpus,
        config.name,
        config=settings,
        options=config.options,
        folder=folder / "checkpoints",
        begin=lambda label, steps: StepBar(watch.begin(f"fitting {label}", steps)),
    )
    record = DESIGNS[design].fit(making)
    record.save(library, config.name)
    shutil.rmtree(folder / "checkpoints", ignore_errors=True)
    for name in making.figures:
        for warning in library.card(name).warnings if name in library else ():
            watch.say(f"{name}: {warning}")
    model = open_reward(base, library, config.name)
    seconds = time.perf_counter() - start
    watch.say(f"fitted {config.name} ({config.design} of {', '.join(record.domains)}) in {seconds:.0f} s")
    result = {
        "name": config.name,
        "design": config.design,
        "domains": list(record.domains),
        "members": making.figures,
        "library": str(config.library),
        "parameters_resident": model.parameters_resident,
        "parameters_active": model.parameters_active,
        "seconds": round(seconds, 3),
    }
    return make_card("reward fit", config, result, seconds)


def design_named(name: str) -> Design:
    """Return the design of this name; raises ConfigError for one there is not."""
    for design in DESIGNS:
        if design == name:
            return design
    raise ConfigError(f"there is no design {name!r}. {nearest(name, DESIGNS)}")


def check_new(library: Library, config: RewardFitConfig) -> None:
    """Raise NameTaken when the library has something of this name already."""
    if config.name in library.model_names():
        raise NameTaken(
            f"the library has a model {config.name!r} already. `collegium reward grow` adds domains to it, `collegium "
            f"library remove {config.name}` takes it away; or take another --as."
        )
    if config.name in library or config.name in library.router_names():
        raise NameTaken(f"the library has something called {config.name!r} already; take another --as.")


def chosen_pairs(config: Any) -> PairCorpus:  # noqa: ANN401 - any configuration that names pairs
    """Return the pairs that a command names, with the chosen domains alone."""
    corpus = read_preferences(
        config.data,
        columns=config.columns or None,
        domain_column=config.domain_column or None,
        drop_unusable=config.drop_unusable,
    )
    return corpus.only(config.domains) if getattr(config, "domains", ()) else corpus


def resolve_settings(config: RewardFitConfig) -> RewardConfig:
    """Return the judges' settings with seed, threads and budget filled in."""
    settings = replace(config.fit, seed=config.common.seed, threads=config.common.apply_threads())
    if config.budget == "full":
        return replace(settings, train_pairs=0, dev_pairs=0)
    if config.budget != "reduced":
        raise ConfigError(
            f"--budget of a reward model is `reduced` or `full`, got {config.budget!r}; --train-pairs and --passes "
            "say the rest."
        )
    return settings
