"""`library derive`: prototypes, clusters of experts by their weights, and changes without what all have alike."""

import shutil
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import ConfigError, LibraryError, NameTaken
from collegium.core.names import check_name
from collegium.core.tables import nearest
from collegium.data import Corpus, read_domains
from collegium.experts import AdapterPayload, Expert, FitConfig, fit_union, parents_of
from collegium.library import ClusterSettings, Library, ParameterClusters, parameter_clusters, prototypes
from collegium.library.parameter_clusters import low_rank_experts
from collegium.library.subtraction import subtract_general
from collegium.models import Base
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.opening import open_library
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.watch import Watch

DERIVATIONS = ("prototypes", "clusters", "subtract")


@dataclass(frozen=True)
class DeriveConfig:
    """Derive from a library's experts: prototypes, clusters (and an expert of each with --train), or subtract."""

    what: Positional[str]
    """prototypes (for arrow), clusters (experts of alike weights), subtract (what general experts have in common)."""
    data: Positional[Path | None] = None
    """clusters --train alone: the texts of the experts' domains."""
    library: Path = field(kw_only=True)
    """The library of experts."""
    experts: tuple[str, ...] = ()
    """Only these low-rank experts; default = all of the language."""
    clusters: int = 2
    """clusters: how many."""
    quantile: float = 0.8
    """clusters: entries of the weights whose magnitude is at or below this quantile count as zero."""
    train: bool = False
    """clusters: train one expert on the texts of each cluster's domains together."""
    general: tuple[str, ...] = ()
    """subtract: whose mean change is subtracted; default = all of the experts."""
    into: Path | None = None
    """Where new experts go; default = the same library."""
    name: Annotated[str, arg(name="as")] = ""
    """New experts' names begin with this (clusters: mbc) or end with it (subtract: own)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    out: Path | None = None
    """clusters --train: where checkpoints lie; default runs/library-derive-HASH."""
    dry_run: bool = False
    """Say what would be made, then stop."""
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    """How an expert of a cluster is trained; it takes this many steps for each of its domains."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: DeriveConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: what was derived."""
    start = time.perf_counter()
    check_derivation(config)
    base, _ = open_library(config.library, config.common)
    library = Library(config.library, base=base)
    if not low_rank_experts(library, config.experts or None):
        raise LibraryError(
            f"library derive {config.what} reads low-rank experts (`lora`), and {library.path} has none; add one with "
            "`collegium train` or `library add`."
        )
    steps = {"prototypes": _prototypes, "clusters": _clusters, "subtract": _subtract}
    result = steps[config.what](config, base, library, watch)
    seconds = time.perf_counter() - start
    shown = {"derived": config.what, "library": str(config.library), **result, "seconds": round(seconds, 3)}
    return make_card("library derive", config, shown, seconds)


def check_derivation(config: DeriveConfig) -> None:
    """Raise ConfigError for an unknown derivation, or for options that it does not heed."""
    if config.what not in DERIVATIONS:
        raise ConfigError(f"there is no derivation {config.what!r}. {nearest(config.what, DERIVATIONS)}")
    plain = DeriveConfig(config.what, library=config.library)
    owners = {"train": "clusters", "data": "clusters", "clusters": "clusters", "general": "subtract"}
    odd = [
        f"--{name} is for {owner} alone"
        for name, owner in owners.items()
        if config.what != owner and getattr(config, name) != getattr(plain, name)
    ]
    if config.train != (config.data is not None):
        odd.append("--train and DATA, the texts of the experts' domains, go together")
    if odd:
        raise ConfigError(f"library derive {config.what}: {'; '.join(odd)}.")


def _prototypes(config: DeriveConfig, base: Base, library: Library, watch: Watch) -> dict[str, Any]:
    chosen = tuple(low_rank_experts(library, config.experts or None))
    if config.dry_run:
        watch.say(f"would derive the prototypes of {', '.join(chosen)}")
        return {"would_derive": list(chosen)}
    layers = {name: len(each) for name, each in prototypes(library, chosen).items()}
    watch.say(
        f"prototypes of {len(layers)} experts: {', '.join(f'{name} {many}' for name, many in layers.items())} layers"
    )
    return {"layers": layers}


def _clusters(config: DeriveConfig, base: Base, library: Library, watch: Watch) -> dict[str, Any]:
    settings = ClusterSettings(config.clusters, config.quantile, seed=config.common.seed)
    found = parameter_clusters(library, config.experts or None, settings=settings)
    prefix = config.name or "mbc"
    names = [f"{prefix}-{number}" for number in range(len(found.members))]
    for name, members in zip(names, found.members, strict=True):
        watch.say(f"{name}: {', '.join(members)}")
    if found.strangers:
        watch.say(
            f"warning: the weights of {', '.join(found.strangers)} are like no other expert's; experts that began from "
            "other first weights (another --seed, another trainer) cannot be compared by them, and fall anywhere."
        )
    result = {
        "clusters": dict(zip(names, map(list, found.members), strict=True)),
        "experts": list(found.experts),
        "similarity": found.similarity.tolist(),
        "strangers": list(found.strangers),
    }
    if not config.train:
        return result
    return {**result, "trained": _train(config, base, library, found, names, watch)}


def _train(
    config: DeriveConfig, base: Base, library: Library, found: ParameterClusters, names: list[str], watch: Watch
) -> dict[str, Any]:
    """Train an expert on each cluster's texts and add it, unless it is there; return each one's figures."""
    assert config.data is not None
    corpus = read_domains(config.data, columns=config.columns or None)
    target = _target(config, base)
    texts = {name: _texts(library, members, corpus) for name, members in zip(names, found.members, strict=True)}
    parents = {
        name: parents_of([library[each] for each in members])
        for name, members in zip(names, found.members, strict=True)
    }
    waiting = [name for name in names if not _there(target, name, parents[name])]
    if config.dry_run:
        watch.say(f"would train {', '.join(waiting) or 'nothing'}")
        return {name: {"would_train_on": list(texts[name].names)} for name in waiting}
    folder = make_folder(run_folder("library derive", config, config.out))
    trained = {}
    for name in waiting:
        fit = replace(
            config.fit,
            seed=config.common.seed,
            threads=config.common.apply_threads(),
            steps=config.fit.steps * len(texts[name]),
        )
        bar = StepBar(watch.begin(f"training {name}", fit.steps))
        done = fit_union(base, texts[name], config=fit, name=name, checkpoint=folder / name, logger=bar)
        expert = Expert(replace(done.expert.card, parents=parents[name]), done.expert.payload)
        card = target.add(expert, measured=done.curve)
        shutil.rmtree(folder / name, ignore_errors=True)
        trained[name] = {"tokens_seen": card.tokens_seen, "domains": list(texts[name].names)}
    return trained


def _texts(library: Library, members: tuple[str, ...], corpus: Corpus) -> Corpus:
    """Return the domains of a cluster's experts; raises ConfigError when the data lack one."""
    domains = [library.card(name).domain or name for name in members]
    missing = [name for name in domains if name not in corpus.names]
    if missing:
        raise ConfigError(
            f"the data has no domain {', '.join(missing)}, which experts of a cluster were trained on; give the folder "
            "they were trained from, or choose others with --experts."
        )
    return Corpus(tuple(corpus[name] for name in dict.fromkeys(domains)))


def _there(target: Library, name: str, parents: dict[str, str]) -> bool:
    """Return whether a library has this very derived expert; raises NameTaken when it has another of the name."""
    check_name(name)
    if name not in target:
        return False
    if dict(target.card(name).parents) != parents:
        raise NameTaken(f"the library has another expert {name!r}; give new names with --as, or a library with --into.")
    return True


def _target(config: DeriveConfig, base: Base) -> Library:
    library = Library(config.library, base=base)
    if config.into is None or config.into == config.library:
        return library
    return Library(config.into, base=base, base_reference=library.base_reference)


def _subtract(config: DeriveConfig, base: Base, library: Library, watch: Watch) -> dict[str, Any]:
    adapters = low_rank_experts(library, config.experts or None)
    general = config.general or tuple(adapters)
    found = subtract_general(low_rank_experts(library, tuple(dict.fromkeys((*adapters, *general)))), general=general)
    target, ending = _target(config, base), config.name or "own"
    parents = {name: parents_of([library[each] for each in dict.fromkeys((name, *general))]) for name in adapters}
    waiting = {name: f"{name}-{ending}" for name in adapters if not _there(target, f"{name}-{ending}", parents[name])}
    if config.dry_run:
        watch.say(f"would add {', '.join(waiting.values()) or 'nothing'} to {target.path}")
        return {"would_add": list(waiting.values())}
    for name, new in waiting.items():
        target.add(derived_expert(library.card(name), new, found[name], parents[name], general, library))
    watch.say(f"added {', '.join(waiting.values()) or 'nothing: they are there'} to {target.path}")
    return {"general": list(general), "added": list(waiting.values())}


def derived_expert(
    card: ExpertCard,
    name: str,
    adapter: Any,  # noqa: ANN401 - low-rank parts by path
    parents: dict[str, str],
    general: tuple[str, ...],
    library: Library,
) -> Expert:
    """Return an expert without what the general ones have in common; its card lists the documents of all parents."""
    payload = AdapterPayload(adapter, fan_in_fan_out=library[card.name].payload.fan_in_fan_out)  # pyright: ignore[reportAttributeAccessIssue]
    tables = [library.card(each).documents for each in parents]
    documents = {
        split: tuple(dict.fromkeys(each for table in tables for each in table.get(split, ())))
        for split in sorted({split for table in tables for split in table})
    }
    recipe = {"method": "subtract general", "general": list(general)}
    made = replace(
        card,
        name=name,
        documents=documents,
        parents=parents,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        trained_parameters=payload.parameters,
        payload={},
    )
    return Expert(made, payload)
