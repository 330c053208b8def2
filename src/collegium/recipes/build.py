"""`build`: from a folder of texts to a routed, evaluated, extendable language model, in one straight line."""

import shlex
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, get_args

import torch
from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import Cast, Ensemble, assemble, textless_weights
from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.routing import BASE
from collegium.data import Corpus, Domain, read_domains
from collegium.experts import FitConfig, resolve
from collegium.experts.recipe import SETTINGS, AdapterKind
from collegium.infer import HeldOut, TokenTable, evaluate_scores, fill_table
from collegium.library import Library
from collegium.models import Base, choose_device
from collegium.recipes.budget import parse_budget
from collegium.recipes.building.cluster_experts import cluster_rows
from collegium.recipes.building.discovery import Discovery, discover_again
from collegium.recipes.building.newcomer import clear, few_windows, further_domain, visit
from collegium.recipes.building.page import Findings, make_report
from collegium.recipes.building.parts import Parts, cast_key, text_key
from collegium.recipes.building.plan import Plan, check_disk, make_plan
from collegium.recipes.building.samples import Passage, coloured, passage, written
from collegium.recipes.building.training import check_equal_training, train_one, training_curves
from collegium.recipes.columns import Column, Way, build_way, column, oracle_column, single_column, time_columns, ways
from collegium.recipes.common import Common
from collegium.recipes.compare import rows as comparison_rows
from collegium.recipes.dense import dense_rows
from collegium.recipes.held_out import windows_of
from collegium.recipes.keep import route_all
from collegium.recipes.opening import DEFAULT_BASE, kept_reference, open_base
from collegium.recipes.report import render
from collegium.recipes.reserved import check_domains
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.watch import Silent, Watch
from collegium.routers import default

DEFAULT = Way("ensemble", default())
EVAL_TOKENS = 4096
"""Held-out tokens a domain in every budget but `full`: half of what `eval` takes, to leave time for training."""
FULL_EVAL_TOKENS = 32_768
FULL_STEPS = 240
"""Steps an expert under `--budget full`, unless others are given."""
RUN_ROUTERS = {"mix": ("uniform", "posterior"), "merge": ("uniform", "cached_prior")}
"""Of the compositions that cost a forward each, the ones a build runs; `compare` runs them all."""


@dataclass(frozen=True)
class BuildConfig:
    """Turn a folder of texts into a college of experts: train, route, compose, evaluate, report."""

    data: Positional[Path]
    """A folder or file of texts, one sub-folder or file per domain."""
    library: Path
    """Where the experts go; what is there already is used."""
    base: str = DEFAULT_BASE
    """The base model: smollm2-135m, a folder, or hf:owner/name@revision."""
    budget: str = "reduced"
    """`reduced` (10 minutes), a time (30m), tokens an expert (200k), or `full` (dense baselines too)."""
    eval_window: int = 128
    """Tokens a window of held-out text; --window is that of training."""
    context: int = 32
    """Leading tokens of a window that are read and not scored."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    out: Path | None = None
    """Where the report and resumable parts go; default runs/build-HASH."""
    dry_run: bool = False
    """Measure and show the plan, then stop."""
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=lambda: FitConfig(layers="top:10", steps=FULL_STEPS))
    """How each expert is trained; --steps counts under `--budget full`, every other budget decides it."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: BuildConfig, *, watch: Watch, command: str = "build") -> RunCard:
    """Return the run's card: the object of `eval --json`, with seconds, discovered, removed and all compositions.

    Every stage leaves its result in the run's folder or the library; a run that was interrupted goes on from there.
    """
    start = time.perf_counter()
    check_settings(config)
    corpus = read_corpus(config)
    base = open_base(config.base, config.common)
    folder = run_folder(command, config, config.out)
    if not config.dry_run:
        make_folder(folder)
    parts = Parts(folder / "parts", read_only=config.dry_run)
    plan = planned(config, base, corpus, parts)
    for line in plan.lines():
        watch.say(line)
    if config.dry_run:
        return make_card(command, config, {"plan": plan.to_json()}, time.perf_counter() - start)
    check_disk(plan, config.library)
    text = held_out_text(config, base, corpus, plan)

    library = opened_library(config, base, corpus, plan)
    for domain in corpus:
        train_one(base, library, domain, plan.fit, folder=folder / "checkpoints", watch=watch, start=start)
    cast = assemble(base, library)
    table = filled(cast, text, parts, watch=watch)
    route_all(base, library, corpus, seed=config.common.seed, watch=watch)
    columns = composed_columns(cast, library, table, parts, watch=watch)
    discovered = discover_again(corpus, parts, seed=config.common.seed, watch=watch)
    removed = visited(cast, library, table, further_domain(discovered.domains, corpus), plan, parts, watch=watch)
    texts = samples(cast, library, table, parts, seed=config.common.seed)
    full = config.budget == "full"
    baselines = against(base, corpus, discovered, table, plan, parts, folder=folder, watch=watch) if full else []

    chosen = next(each for each in columns if each.label == DEFAULT.label)
    evaluation = evaluate_scores(table, chosen.scores, chosen.routing, seconds=time.perf_counter() - start)
    found = Findings(
        title=f"A college of {len(corpus.names)} experts",
        source=base.source,
        plan=plan.to_json(),
        evaluation=evaluation,
        columns=comparison_rows(columns, table.text),
        tokens_seen={name: library.card(name).tokens_seen for name in corpus.names},
        curves=training_curves(library, corpus.names),
        texts=texts,
        discovered=discovered.to_json() if len(corpus) > 1 else {},
        removed=removed,
        baselines=baselines,
        commands=next_commands(config, corpus),
        default=chosen.label,
        seconds=time.perf_counter() - start,
    )
    write_text(folder / "report.html", render(make_report(found)))
    card = make_card(command, config, result_of(found, folder), time.perf_counter() - start)
    save_card(card, folder)
    return card


def check_settings(config: BuildConfig) -> None:
    """Raise ConfigError for what is wrong before anything is read: device, settings of experts, budget.

    A budget other than `full` decides the steps; `full` compares with dense adapters of other ranks.
    """
    choose_device(config.common.device)
    resolve(config.fit)
    parse_budget(config.budget)
    ranked = "rank" in SETTINGS[config.fit.kind]
    if config.budget == "full" and not ranked:
        kinds = " or ".join(kind for kind in get_args(AdapterKind) if "rank" in SETTINGS[kind])
        raise ConfigError(
            f"--budget full compares K experts with one dense adapter of their rank and one of K times it, and experts "
            f"of kind {config.fit.kind} have no rank. Give --kind {kinds}, or a time (30m) or tokens an expert (200k) "
            "as the budget."
        )
    if config.budget != "full" and config.fit.steps != FULL_STEPS:
        other = f", or --budget full --steps {config.fit.steps} with all comparisons" if ranked else ""
        raise ConfigError(
            f"--steps {config.fit.steps} and --budget {config.budget} both say how long to train. Give --budget "
            f"{config.fit.steps * config.fit.tokens_per_step} for as many tokens an expert{other}."
        )


def read_corpus(config: BuildConfig) -> Corpus:
    """Return the domains; one of a reserved name, or too small, is told before anything is loaded."""
    corpus = read_domains(config.data, columns=config.columns or None)
    check_domains(corpus)
    for domain in corpus:
        domain.split()
    return corpus


def opened_library(config: BuildConfig, base: Base, corpus: Corpus, plan: Plan) -> Library:
    """Return the library to build in, without what a killed run left; under `full` its experts must be as planned."""
    library = Library(config.library, base=base, base_reference=kept_reference(config.base))
    clear(library)
    if config.budget == "full":
        check_equal_training(library, corpus, plan.fit, base)
    return library


def against(
    base: Base,
    corpus: Corpus,
    discovered: Discovery,
    table: TokenTable,
    plan: Plan,
    parts: Parts,
    *,
    folder: Path,
    watch: Watch,
) -> list[dict[str, Any]]:
    """Return the rows of what `--budget full` compares with: dense training at equal tokens, cluster experts."""
    dense = dense_rows(base, corpus, table, plan, parts, folder=folder, watch=watch)
    found = cluster_rows(base, discovered, table, plan.fit, parts, folder=folder, seed=plan.fit.seed, watch=watch)
    return dense + found


def planned(config: BuildConfig, base: Base, corpus: Corpus, parts: Parts) -> Plan:
    """Return the plan, measured once: a run that is resumed keeps its steps."""
    budget = parse_budget(config.budget, minutes=10.0)
    eval_tokens = FULL_EVAL_TOKENS if config.budget == "full" else EVAL_TOKENS
    threads = torch.get_num_threads()
    fit = replace(config.fit, seed=config.common.seed, threads=threads)
    kept: dict[str, Plan] = {}

    def measure() -> dict[str, Any]:
        kept["plan"] = make_plan(base, corpus, fit, budget=budget, eval_tokens=eval_tokens)
        return {"steps": kept["plan"].fit.steps, **kept["plan"].to_json()}

    machine = [base.fingerprint.short, str(base.device), str(base.dtype)]
    asked = [list(corpus.names), config.budget, asdict(fit)]
    found = parts.values("plan", inputs=[machine, asked], compute=measure)
    if "plan" in kept:
        return kept["plan"]
    return Plan(
        domains=corpus.names,
        documents={each.name: len(each.documents) for each in corpus},
        device=found["device"],
        dtype=found["dtype"],
        train_speed=found["train_tokens_per_second"],
        score_speed=found["score_tokens_per_second"],
        fit=replace(fit, steps=found["steps"]),
        eval_tokens=eval_tokens,
        expected_seconds=found["expected_seconds"],
        disk_bytes=found["disk_bytes"],
    )


def held_out_text(config: BuildConfig, base: Base, corpus: Corpus, plan: Plan) -> HeldOut:
    """Return the domains' test documents as windows; what cannot be scored is refused before anything is trained."""
    documents = {domain.name: domain.split().test for domain in corpus}
    return windows_of(
        documents, base.tokenizer, window=config.eval_window, context=config.context, budget_tokens=plan.eval_tokens
    )


def filled(cast: Cast, text: HeldOut, parts: Parts, *, watch: Watch) -> TokenTable:
    """Return the table of base and experts on held-out text."""
    voices = cast.voices()
    inputs = [cast_key(cast), text_key(text)]

    def compute() -> dict[str, torch.Tensor]:
        update = watch.begin("scoring held-out text", int(text.lengths.sum()))
        return {"table": fill_table(voices, text, voices.names, progress=lambda done, _: update(done)).log_probs}

    return TokenTable(text, voices.names, parts.tensors("table", inputs=inputs, compute=compute)["table"])


def composed_columns(cast: Cast, library: Library, table: TokenTable, parts: Parts, *, watch: Watch) -> list[Column]:
    """Return base, every composition and the oracle; the scores of mix and merge and all speeds are kept."""
    found = [single_column(table, BASE)]
    for way in ways(cast, library):
        if way.compose == "ensemble":
            found.append(column(way, cast, library, table, watch=watch))
        elif way.recipe.name in RUN_ROUTERS[way.compose]:
            weights = None
            if way.compose == "merge":
                weights = textless_weights(way.recipe, cast.names, shelf=library, tokenizer=cast.base.tokenizer)
            inputs = [cast_key(cast), text_key(table.text), way.query, weights]
            name = way.label.replace(" ", "-")
            scores = parts.tensors(
                name,
                inputs=inputs,
                compute=lambda way=way: {"s": column(way, cast, library, table, watch=watch).scores},
            )["s"]
            found.append(Column(way, way.label, scores, None, 1.0))
    speeds = parts.values(
        "speed",
        inputs=[cast_key(cast), text_key(table.text), [each.label for each in found]],
        compute=lambda: [
            [each.ms_per_token, each.resident_bytes]
            for each in time_columns(found, cast, library, table.text, watch=watch)
        ],
    )
    timed = [
        replace(each, ms_per_token=speed, resident_bytes=held)
        for each, (speed, held) in zip(found, speeds, strict=True)
    ]
    return [*timed, oracle_column(table)]


def visited(
    cast: Cast, library: Library, table: TokenTable, domain: Domain, plan: Plan, parts: Parts, *, watch: Watch
) -> dict[str, Any]:
    """Return what a further expert left behind when it was gone: the largest change, 0.0."""
    text = few_windows(table.text)
    steps = max(2, plan.fit.steps // 8)
    return parts.values(
        "removed",
        inputs=[cast_key(cast), text_key(text), [each.hash for each in domain.documents], steps],
        compute=lambda: visit(cast.base, library, text, domain, plan.fit, steps=steps, watch=watch).to_json(text),
    )


def samples(cast: Cast, library: Library, table: TokenTable, parts: Parts, *, seed: int) -> list[Any]:
    """Return coloured texts: a held-out window of each domain as it is read, and what the composition writes."""
    model = build_way(DEFAULT, cast, library)
    assert isinstance(model, Ensemble)
    routing = column(DEFAULT, cast, library, table, watch=Silent()).routing
    assert routing is not None
    found = []
    for domain in table.text.domain_names:
        row = max(
            (place for place, name in enumerate(table.text.domains) if name == domain),
            key=lambda place: int(table.text.lengths[place]),
        )
        found.append(passage(table, routing, row, title=f"A held-out text of {domain}, as it is read"))
    own = parts.values(
        "written",
        inputs=[cast_key(cast), text_key(table.text), seed],
        compute=lambda: [vars(each) for each in written(model, table.text, seed=seed)],
    )
    tokenizer = cast.base.tokenizer
    return [coloured(each, tokenizer) for each in [*found, *(Passage(**each) for each in own)]]


def next_commands(config: BuildConfig, corpus: Corpus) -> list[str]:
    """Return what a user would try next."""
    first, library = corpus.names[0], str(config.library)
    data, lib = shlex.quote(str(config.data)), shlex.quote(library)
    return [
        f'collegium generate "Once upon a time" --model {lib}',
        f'collegium generate "Once upon a time" --model {shlex.quote(f"{library}#{first}")}',
        f"collegium compare {data} --library {lib}",
        f"collegium train MORE_TEXTS --library {lib}",
        f"collegium library remove {first} --library {lib}",
    ]


def result_of(found: Findings, folder: Path) -> dict[str, Any]:
    """Return the object that `build --json` and `demo --json` end with."""
    return {
        **found.evaluation.to_json(),
        "seconds": round(found.seconds, 3),
        "discovered": {"nmi": found.discovered["nmi"]} if found.discovered else None,
        "removed": dict(found.removed),
        "columns": list(found.columns),
        "baselines": list(found.baselines),
        "default": found.default,
        "plan": dict(found.plan),
        "tokens_seen": dict(found.tokens_seen),
        "report": str(folder / "report.html"),
        "next": list(found.commands),
    }
