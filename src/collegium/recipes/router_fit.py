"""`router fit`: fit one router or gate of a library, on the texts its experts were trained on."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import Cast, GateFit, Remembered, assemble, fit_phatgoose, fit_xlora
from collegium.compose.fitted_gates import WIDTH
from collegium.core.errors import ConfigError, DataError, LibraryError
from collegium.core.names import FITTED_ROUTERS
from collegium.core.tables import nearest
from collegium.data import Corpus, Domain, read_domains
from collegium.experts import FitConfig
from collegium.library import Library, prototypes
from collegium.recipes.budget import Budget
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.fit_routers import fit_routers
from collegium.recipes.opening import open_library, select
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.speed import tokens_per_second
from collegium.recipes.watch import Watch
from collegium.routers.gates.xlora import Scale
from collegium.train import Fit

FITS = ("arrow", "phatgoose", "xlora", *FITTED_ROUTERS)
"""What can be fitted; of these `arrow` reads no text."""


@dataclass(frozen=True)
class RouterFitConfig:
    """Fit a router or a gate of a library anew: arrow, phatgoose, xlora, classifier, cluster or cached_prior."""

    router: Positional[str]
    """Which one."""
    data: Positional[Path | None] = None
    """A folder or file of texts, one sub-folder or file per expert's domain; arrow reads none."""
    library: Path = field(kw_only=True)
    """The library of experts; the fit is kept in it, in place of an earlier one."""
    experts: tuple[str, ...] = ()
    """phatgoose alone: only these experts' gates; the others stay as they are."""
    width: int = WIDTH
    """xlora alone: inner units of its head."""
    scale: Scale = "softmax"
    """xlora alone: softmax over the experts, or a sigmoid for each (open weights)."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    dry_run: bool = False
    """Measure and show what would be done, then stop."""
    fit: OmitArgPrefixes[GateFit] = field(default_factory=GateFit)
    """How gates are fitted through the frozen model."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: RouterFitConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: who has a row in the fit, and the held-out nats before and after where there are any."""
    start = time.perf_counter()
    check_fit(config)
    base, _ = open_library(config.library, config.common)
    library = Library(config.library, base=base)
    if not library.names(task="language"):
        raise LibraryError(
            f"{library.path} holds no language expert to fit a router for; add one with `collegium train`."
        )
    domains = () if config.data is None else own_domains(config, library)
    if config.dry_run:
        return _dry_run(config, library, domains, watch=watch, start=start)
    if config.router == "arrow":
        found = {name: {"layers": len(each)} for name, each in prototypes(library).items()}
    else:
        found = _fit(config, assemble(base, library), library, domains, watch=watch)
    watch.say(f"{config.router}: fitted for {', '.join(found)}")
    seconds = time.perf_counter() - start
    result = {"router": config.router, "library": str(config.library), "experts": found, "seconds": round(seconds, 3)}
    return make_card("router fit", config, result, seconds)


def check_fit(config: RouterFitConfig) -> None:
    """Raise ConfigError for a fit there is none of, one without texts, or options that it does not heed."""
    if config.router not in FITS:
        raise ConfigError(f"there is no fit {config.router!r}. {nearest(config.router, FITS)}")
    if config.data is None and config.router != "arrow":
        raise ConfigError(
            f"{config.router} is fitted on texts: collegium router fit {config.router} DATA --library LIB"
        )
    plain = RouterFitConfig(config.router, library=config.library)
    stray = {"experts": "phatgoose", "width": "xlora", "scale": "xlora"}
    odd = [
        f"--{name} is for {owner} alone"
        for name, owner in stray.items()
        if config.router != owner and getattr(config, name) != getattr(plain, name)
    ]
    if odd:
        raise ConfigError(f"router fit {config.router}: {'; '.join(odd)}.")


def own_domains(config: RouterFitConfig, library: Library) -> tuple[Domain, ...]:
    """Return the domains that have an expert of their name; raises DataError when there is none."""
    assert config.data is not None
    corpus: Corpus = read_domains(config.data, columns=config.columns or None)
    experts = select(library, config.experts).names(task="language") if config.experts else library.names("language")
    found = tuple(domain for domain in corpus if domain.name in experts)
    if not found:
        raise DataError(
            f"a fit reads the texts of experts' own domains; {config.data} has {', '.join(corpus.names)}, the experts "
            f"are {', '.join(experts)}. Give the folder they were trained from."
        )
    return found


def _fit(
    config: RouterFitConfig, cast: Cast, library: Library, domains: Sequence[Domain], *, watch: Watch
) -> Mapping[str, Mapping[str, Any]]:
    if config.router in FITTED_ROUTERS:
        fit_routers(cast, library, domains, (config.router,), seed=config.common.seed, watch=watch)
        return {domain.name: {} for domain in domains}
    documents = {domain.name: remembered(domain) for domain in domains}
    fits: dict[str, Callable[[], Mapping[str, Fit]]] = {
        "phatgoose": lambda: _phatgoose(config, cast, library, documents, watch=watch),
        "xlora": lambda: _xlora(config, cast, library, documents, watch=watch),
    }
    return {name: figures(each) for name, each in fits[config.router]().items()}


def remembered(domain: Domain) -> Remembered:
    """Return what a fit may read of a domain: what its expert was trained and chosen on, never its test part."""
    split = domain.split()
    return Remembered(split.train, split.dev)


def figures(done: Fit) -> dict[str, Any]:
    """Return a fit's held-out nats a token before and at its best, and how many steps it took."""
    losses = [each.loss for each in done.history.evaluations]
    return {
        "held_out_nats_before": losses[0] if losses else None,
        "held_out_nats": min(losses, default=None),
        "steps": len(done.history.steps),
    }


def _phatgoose(
    config: RouterFitConfig,
    cast: Cast,
    library: Library,
    documents: Mapping[str, Remembered],
    *,
    watch: Watch,
) -> dict[str, Fit]:
    found = {}
    for name, own in documents.items():
        found |= fit_phatgoose(
            cast.base,
            cast.keys,
            library,
            documents={name: own},
            config=config.fit,
            seed=config.common.seed,
            logger=StepBar(watch.begin(f"gates of {name}", config.fit.steps)),
        )
    return found


def _xlora(
    config: RouterFitConfig,
    cast: Cast,
    library: Library,
    documents: Mapping[str, Remembered],
    *,
    watch: Watch,
) -> dict[str, Fit]:
    if cast.whole:
        raise ConfigError(f"xlora weighs adapters inside one base, but {sorted(cast.whole)} are whole models.")
    done = fit_xlora(
        cast.base,
        cast.keys,
        library,
        documents=documents,
        width=config.width,
        scale=config.scale,
        config=config.fit,
        seed=config.common.seed,
        logger=StepBar(watch.begin("fitting xlora", config.fit.steps)),
    )
    return dict.fromkeys(cast.names, done)


def _dry_run(
    config: RouterFitConfig, library: Library, domains: Sequence[Domain], *, watch: Watch, start: float
) -> RunCard:
    """Return what the fit would take, measured on this machine; nothing is made."""
    base, fit = library.base, config.fit
    assert base is not None
    fits = {"phatgoose": len(domains), "xlora": 1}.get(config.router, 0)
    budget = Budget(tokens=fits * fit.steps * fit.batch * fit.window)
    speed = tokens_per_second(base, FitConfig(batch=fit.batch, window=fit.window)) if fits else None
    plan = {
        "router": config.router,
        "experts": [domain.name for domain in domains] or list(library.names(task="language")),
        "tokens": budget.tokens,
        "train_tokens_per_second": None if speed is None else round(speed, 1),
        "expected_seconds": None if speed is None else round((budget.tokens or 0) / speed, 1),
    }
    watch.say(
        f"would fit {config.router} for {', '.join(plan['experts'])}"
        + ("" if speed is None else f": {budget.tokens:,} tokens at {speed:.0f} a second, {plan['expected_seconds']} s")
    )
    return make_card("router fit", config, {"plan": plan}, time.perf_counter() - start)
