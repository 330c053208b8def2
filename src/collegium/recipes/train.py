"""`train`: one expert per domain, resumable, several at a time; then the library's routers."""

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.errors import ConfigError, TrainingError, UnknownName
from collegium.core.tables import nearest
from collegium.data import Corpus, Domain, read_domains
from collegium.experts import Expert, FitConfig
from collegium.experts.recipe import resolve, using_threads
from collegium.experts.workers import Branch, Outcome, clear_away, fit_experts
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.branch import FRESH, begin_of, branch_of
from collegium.recipes.budget import Budget, parse_budget
from collegium.recipes.building.parts import Parts
from collegium.recipes.building.plan import CHECKPOINTS, OPTIMISER_COPIES, make_plan
from collegium.recipes.common import Common
from collegium.recipes.joint import COPIES, JointPlace, check_memory, joint_base_folder, joint_bytes, train_joint
from collegium.recipes.keep import route_all
from collegium.recipes.opening import DEFAULT_BASE, kept_reference, open_base
from collegium.recipes.reference import is_library
from collegium.recipes.reserved import check_domains
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.speed import tokens_per_second, whole_tokens_per_second
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class TrainConfig:
    """Train one expert per domain and add it to a library; experts that are there already are left alone."""

    data: Positional[Path]
    """A folder or file of texts, one sub-folder or file per domain."""
    library: Path
    """Where the experts go; made when it is not there."""
    base: str = DEFAULT_BASE
    """The base model: smollm2-135m, a folder, or hf:owner/name@revision."""
    domains: tuple[str, ...] = ()
    """Only these domains."""
    budget: str = ""
    """Time or tokens for each expert in place of --steps: 5m, 200k; `full` and `reduced` leave --steps as it is."""
    workers: int = 1
    """Experts trained at the same time; they divide the threads."""
    whole: bool = False
    """Make whole small models (Branch-Train-Merge) in place of small changes of the base."""
    parents: tuple[str, ...] = ()
    """Whole experts of the library to branch from, weighted by their posterior on the domain; none = the base."""
    start: Annotated[str, arg(name="from")] = FRESH
    """What small experts begin with: base (fresh weights), or a copy of an expert of the library, which stays as it is:
    its name, or nearest = the one of --kind with the highest posterior on the domain's dev text (DEMix-DAPT)."""
    joint: bool = False
    """Train all domains together (DEMix): one new base that they share, feed-forward blocks of each domain's own; the
    library is then one of the new base."""
    joint_base: Path | None = None
    """The folder of the new base of --joint; default = the library's with `-base` behind its name."""
    routers: bool = True
    """Fit the library's routers afterwards, or give new experts their rows in them."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    out: Path | None = None
    """Where checkpoints lie; default runs/train-HASH."""
    dry_run: bool = False
    """Measure and show what would be done, then stop."""
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    """How each expert is trained."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: TrainConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: what became of every domain.

    Raises TrainingError at the end when experts failed; those that did not are in the library by then.
    """
    start = time.perf_counter()
    config = checked(config)
    corpus = chosen_domains(read_domains(config.data, columns=config.columns or None), config.domains)
    check_domains(corpus)
    each = max(1, config.common.apply_threads() // config.workers)
    base = open_base(config.base, config.common)
    if config.dry_run:
        return dry_run(config, base, corpus, threads=each, watch=watch, start=start)
    if config.joint:
        return run_joint(config, base, corpus, threads=each, watch=watch, start=start)
    library = Library(config.library, base=base, base_reference=kept_reference(config.base))
    waiting = [domain for domain in corpus if domain.name not in library]
    for domain in corpus:
        if domain not in waiting:
            watch.say(f"{domain.name}: is in the library already")
    folder = make_folder(work_folder(config, each))
    for domain in corpus:
        if domain not in waiting:
            clear_away(folder / domain.name)
    parts = Parts(folder)
    fit = resolve_fit(config, base, threads=each, parts=parts)
    parents = [library[name] for name in config.parents]
    branch = partial(branch_of, base, parents, window=fit.window, watch=watch) if config.whole else None
    kind = fit.kind
    begin = partial(begin_of, config.start, base, library, kind=kind, window=fit.window, parts=parts, watch=watch)
    outcome = train_domains(
        base, library, waiting, fit, branch=branch, begin=begin, workers=config.workers, folder=folder, watch=watch
    )
    if config.routers:
        route_all(base, library, corpus, seed=config.common.seed, watch=watch)
    seconds = time.perf_counter() - start
    failed = {name: row["error"] for name, row in outcome.items() if "error" in row}
    if failed:
        text = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise TrainingError(f"{len(failed)} of {len(waiting)} experts failed, the others are kept. {text}")
    result = {"library": str(config.library), "experts": outcome, "seconds": round(seconds, 3)}
    return make_card("train", config, result, seconds)


def checked(config: TrainConfig) -> TrainConfig:
    """Return the settings, a wrong one told before anything is read."""
    if config.parents and not config.whole:
        raise ConfigError("--parents goes with --whole: a small expert starts from the base, or --from another one.")
    if config.start != FRESH and (config.whole or config.joint):
        raise ConfigError("--from is for small experts that are trained apart; whole models branch from --parents.")
    if config.workers < 1:
        raise ConfigError(f"--workers is at least 1, got {config.workers}.")
    config = with_joint_kind(config)
    resolve(config.fit, "whole" if config.whole else None)
    return config


def with_joint_kind(config: TrainConfig) -> TrainConfig:
    """Return the settings with the kind of expert that --joint makes; raises ConfigError for what goes not with it."""
    if config.joint_base is not None and not config.joint:
        raise ConfigError("--joint-base is the folder of the base that --joint makes; give --joint, too.")
    if not config.joint:
        return config
    others = {"--whole": config.whole, "--parents": config.parents, "--workers": config.workers > 1}
    wrong = [flag for flag, given in others.items() if given]
    if wrong:
        raise ConfigError(f"--joint is one fit of one new base for all domains, so {wrong[0]} does not go with it.")
    if config.fit.kind not in (FitConfig().kind, "ffn"):
        raise ConfigError(
            f"--joint gives each domain feed-forward blocks of its own: experts of kind ffn, not {config.fit.kind!r}. "
            "Leave --kind out."
        )
    return replace(config, fit=replace(config.fit, kind="ffn"))


def run_joint(config: TrainConfig, base: Base, corpus: Corpus, *, threads: int, watch: Watch, start: float) -> RunCard:
    """Return the card of a joint run: the new base, its library and every domain's figures."""
    folder = make_folder(work_folder(config, threads))
    place = JointPlace(config.library, joint_base_folder(config.library, config.joint_base), folder)
    fit = resolve_fit(config, base, threads=threads, parts=Parts(folder))
    shared, library, outcome = train_joint(base, corpus, fit, place=place, common=config.common, watch=watch)
    if config.routers:
        route_all(shared, library, corpus, seed=config.common.seed, watch=watch)
    seconds = time.perf_counter() - start
    result = {"library": str(config.library), "base": str(place.base), "experts": outcome, "seconds": round(seconds, 3)}
    return make_card("train", config, result, seconds)


def dry_run(config: TrainConfig, base: Base, corpus: Corpus, *, threads: int, watch: Watch, start: float) -> RunCard:
    """Return what training would take, measured on this machine; nothing is made."""
    there = Library(config.library, base=base).names() if is_library(str(config.library)) and not config.joint else ()
    waiting = Corpus(tuple(domain for domain in corpus if domain.name not in there))
    fit = resolve_fit(config, base, threads=threads)
    speed = fit_speed(config, base, fit)
    plan = make_plan(
        base, waiting, fit, budget=Budget(tokens=fit.steps * fit.tokens_per_step), eval_tokens=0, train_speed=speed
    )
    if config.whole:
        weights = 4 * sum(tensor.numel() for tensor in base.model.parameters())
        fits = min(config.workers, len(waiting.names)) * CHECKPOINTS * OPTIMISER_COPIES
        plan = replace(plan, disk_bytes=weights * (len(waiting.names) + fits))
    if config.joint:
        check_memory(base, fit, len(waiting.names), watch)
        numbers = joint_bytes(base, fit, len(waiting.names)) // COPIES
        plan = replace(plan, disk_bytes=numbers * (1 + CHECKPOINTS * OPTIMISER_COPIES))
    for line in plan.lines():
        watch.say(line)
    return make_card("train", config, {"plan": plan.to_json()}, time.perf_counter() - start)


def chosen_domains(corpus: Corpus, names: tuple[str, ...]) -> Corpus:
    """Return the corpus with the named domains alone (all when none is named); raises UnknownName."""
    for name in names:
        if name not in corpus.names:
            raise UnknownName(f"the data has no domain {name!r}. {nearest(name, corpus.names)}")
    return corpus if not names else Corpus(tuple(domain for domain in corpus if domain.name in names))


def work_folder(config: TrainConfig, threads: int) -> Path:
    """Return where checkpoints lie: one folder for all runs that make the same experts, whoever shares the work.

    threads: of each expert.
    """
    alike = replace(config, workers=1, common=replace(config.common, threads=threads))
    return run_folder("train", alike, config.out)


def resolve_fit(config: TrainConfig, base: Base, *, threads: int, parts: Parts | None = None) -> FitConfig:
    """Return the fit's settings with seed, threads, and a budget turned into steps by measured speed.

    threads: of each expert. parts: where steps are kept once they were measured, so that a run can go on.
    """
    fit = replace(config.fit, seed=config.common.seed, threads=threads)
    if not config.budget:
        return fit
    budget = parse_budget(config.budget)
    tokens, seconds = budget.tokens, budget.seconds
    if seconds is not None:
        place = [base.fingerprint.short, str(base.dtype), str(base.device)]
        inputs = [config.budget, config.whole, asdict(replace(fit, steps=1)), place]

        def measure() -> int:
            with using_threads(threads):
                return int(seconds * fit_speed(config, base, fit))

        tokens = measure() if parts is None else parts.values("budget-tokens", inputs=inputs, compute=measure)
    return fit if tokens is None else replace(fit, steps=max(1, tokens // fit.tokens_per_step))


def fit_speed(config: TrainConfig, base: Base, fit: FitConfig) -> float:
    """Return the measured training tokens a second of one expert of the kind asked for."""
    return whole_tokens_per_second(base, fit) if config.whole or config.joint else tokens_per_second(base, fit)


def train_domains(
    base: Base,
    library: Library,
    domains: list[Domain],
    fit: FitConfig,
    *,
    branch: Callable[[Domain], Branch] | None = None,
    begin: Callable[[Domain], Expert | None] | None = None,
    workers: int,
    folder: Path,
    watch: Watch,
) -> dict[str, dict[str, Any]]:
    """Train the domains and add each expert as soon as it is done; return each one's figures or error.

    branch: where a domain's whole model begins; None = small experts are made.
    begin:  the expert whose copy a domain's small one begins with; None = fresh weights.
    """
    bars = {domain.name: watch.begin(f"training {domain.name}", fit.steps) for domain in domains}

    def keep(outcome: Outcome) -> Expert:
        assert outcome.expert is not None
        library.add(outcome.expert, measured=outcome.curve)
        bars[outcome.name](fit.steps)
        for warning in outcome.expert.card.warnings:
            watch.say(f"{outcome.name}: {warning}")
        return library[outcome.name]

    outcomes = fit_experts(
        base,
        domains,
        config=fit,
        work=folder,
        workers=workers,
        branch=branch,
        begin=begin,
        keep=keep,
        report=lambda progress: bars[progress.name](progress.step),
    )
    return {outcome.name: figures(outcome) for outcome in outcomes}


def figures(outcome: Outcome) -> dict[str, Any]:
    """Return what became of one expert as plain values."""
    if outcome.error is not None or outcome.expert is None:
        return {"error": str(outcome.error)}
    card, held_out = outcome.expert.card, (outcome.curve or {}).get("held_out", [])
    return {
        "tokens_seen": card.tokens_seen,
        "trained_parameters": card.trained_parameters,
        "held_out_nats_before": held_out[0][1] if held_out else None,
        "held_out_nats": min((loss for _, loss in held_out), default=None),
        "recipe_hash": card.recipe_hash[:12],
        "warnings": list(card.warnings),
        **({"branch": card.recipe["branch"]} if card.kind == "whole" else {}),
        **({"from": list(card.parents)} if card.kind != "whole" and card.parents else {}),
    }
