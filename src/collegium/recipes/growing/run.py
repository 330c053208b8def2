"""`library grow`: domains arrive; each gets an expert of its own or extends the nearest, and what moved is told."""

import shutil
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any

import torch
from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.errors import ConfigError, NameTaken
from collegium.data import Corpus, Domain, read_domains
from collegium.experts import FitConfig, fit_domain
from collegium.experts.fit import Trained, fit_further
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.budget import parse_budget
from collegium.recipes.building.parts import Parts
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.growing.arrivals import Arrivals, sort_arrivals, together
from collegium.recipes.growing.deciding import (
    Decision,
    Nearness,
    Policy,
    Reading,
    decide,
    nearness,
    settings_like,
    speakers,
)
from collegium.recipes.growing.keeping import Merged, aside_name, merge_most_alike, payload_hashes, put_in_place
from collegium.recipes.growing.measuring import Judge, judged_text
from collegium.recipes.keep import remove_expert, route_all
from collegium.recipes.opening import open_library
from collegium.recipes.reserved import check_domains
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder
from collegium.recipes.speed import tokens_per_second
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class GrowConfig:
    """Let a library grow by domains that arrive: a new expert each, or the nearest expert extended."""

    docs: Positional[Path | None] = None
    """A folder or file of texts, one sub-folder or file per domain; those of experts that are there are not learnt
    again, but read for the report, the routers and what is extended."""
    library: Path = field(kw_only=True)
    """The library of experts."""
    name: Annotated[str, arg(name="as")] = ""
    """Take all documents as one domain of this name: an expert of your own folder."""
    policy: Policy = "auto"
    """`new`: an expert of its own; `extend`: go on with the nearest one on its texts and the new ones; `auto`: extend
    where the nearest is near enough (--near) and its texts are at hand, else new."""
    near: float = 0.5
    """auto: extend where the expert of the largest posterior brings, in nats a token against the base, at least this
    share of what it brings on its own held-out texts."""
    texts: Path | None = None
    """Texts of experts that are there, a domain named after each, where DOCS has none of them."""
    replace: bool = False
    """Remove an expert that was extended; else it stays as NAME-before."""
    most: int = 0
    """Afterwards merge the two most alike experts into their average until so many are left; 0 = as many as there are.
    Alike are experts whose changes of the base have the largest cosine."""
    retire: tuple[str, ...] = ()
    """Remove these experts first."""
    steps: int = 0
    """Updates of each new or extended expert; 0 = as many as the nearest had. All other settings are as it had them."""
    budget: str = ""
    """Time or tokens for each in place of --steps: 5m, 200k."""
    tokens: int = 2048
    """Held-out tokens read for each domain to decide and to report, at most."""
    window: int = 128
    """Tokens a window of them."""
    context: int = 32
    """Leading tokens of a window that are read and not scored."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    out: Path | None = None
    """Where checkpoints lie; default runs/library-grow-HASH."""
    dry_run: bool = False
    """Decide and say what would be done with each domain, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(eq=False)
class Growing:
    """A library that is growing: what it is read with, its experts' texts so far, and what has happened."""

    config: GrowConfig
    base: Base
    library: Library
    own: dict[str, Domain]
    watch: Watch
    rows: dict[str, dict[str, Any]] = field(default_factory=dict)
    routed: dict[str, Domain] = field(default_factory=dict)

    @property
    def reading(self) -> Reading:
        """How much held-out text is read."""
        return Reading(self.config.tokens, self.config.window, self.config.context)


def run(config: GrowConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: what was decided, what moved in every domain, which experts were not touched.

    Raises what reading, fitting and the library raise; domains that were learnt before are kept.
    """
    start = time.perf_counter()
    check_settings(config)
    base, library = open_library(config.library, config.common)
    arrivals = _arrivals(config, library)
    if config.dry_run:
        growing = Growing(config, base, library, dict(arrivals.own), watch)
        for domain in arrivals.new:
            _decided(growing, domain)
        return make_card("library grow", config, {"plan": growing.rows}, time.perf_counter() - start)
    library = Library(config.library, base=base)
    growing = Growing(config, base, library, dict(arrivals.own), watch)
    text, told = judged_text(base, library, arrivals.judged, reading=growing.reading)
    judge = None if text is None else Judge(base, text)
    hashes, before = payload_hashes(library), _perplexities(judge, library)

    for name in config.retire:
        _say_all(watch, [f"retired {name}", *remove_expert(library, name, keep_descendants=True)])
        growing.own.pop(name, None)
    for domain in arrivals.new:
        _arrive(growing, domain)
    merged = _consolidate(growing)
    route_all(base, library, _texts(growing), seed=config.common.seed, watch=watch)

    moved = _moved(judge, library, before=before, told=told)
    result = {
        "library": str(config.library),
        "arrivals": growing.rows,
        "known": arrivals.known,
        "merged": [each.to_json() for each in merged],
        "retired": list(config.retire),
        "domains": moved,
        "experts": _told_experts(hashes, payload_hashes(library)),
        "tokens_trained": sum(row["tokens_trained"] for row in growing.rows.values()),
    }
    seconds = time.perf_counter() - start
    return make_card("library grow", config, {**result, "seconds": round(seconds, 3)}, seconds)


def check_settings(config: GrowConfig) -> None:
    """Raise ConfigError for what is wrong before anything is read."""
    if config.docs is None and not config.most and not config.retire:
        raise ConfigError("nothing arrives: give a folder of texts, --most K to consolidate, or --retire NAME.")
    if config.name and config.docs is None:
        raise ConfigError("--as names the domain that all documents are; give a folder of texts.")
    if config.most < 0 or config.steps < 0 or config.tokens < 1:
        raise ConfigError(
            f"--most and --steps are not negative, --tokens is at least 1; got {config.most}, {config.steps} and "
            f"{config.tokens}."
        )
    if not config.near > 0:
        raise ConfigError(f"--near is a share above 0, such as 0.5; got {config.near}. --policy extend always extends.")
    if config.steps and config.budget:
        raise ConfigError("--steps and --budget both say how long to train; give one.")
    if config.budget:
        parse_budget(config.budget)


def _arrivals(config: GrowConfig, library: Library) -> Arrivals:
    """Return what arrives and what is known; raises what cannot be before anything is computed."""
    columns = config.columns or None
    docs = Corpus(()) if config.docs is None else read_domains(config.docs, columns=columns)
    if config.name:
        docs = Corpus((together(config.name, tuple(docs)),))
    check_domains(docs)
    texts = Corpus(()) if config.texts is None else read_domains(config.texts, columns=columns)
    for name in config.retire:
        library.card(name)  # raises UnknownName with the nearest
    found = sort_arrivals(library, docs, texts, without=config.retire)
    for domain in found.new:
        domain.split()
        if domain.name in (*library.router_names(), *library.model_names()):
            raise NameTaken(f"the library has a router or model {domain.name!r}; rename that domain, or give --as.")
    return found


def _decided(growing: Growing, domain: Domain) -> tuple[Nearness, Decision]:
    """Return what is to become of a domain, told and noted."""
    config, library = growing.config, growing.library
    near = nearness(growing.base, library, domain, own=growing.own, reading=growing.reading)
    fitted = {name for name in growing.own if settings_like(library.card(name)) is not None}
    decision = decide(config.policy, near, least=config.near, extendable=fitted)
    expert = near.nearest if decision.way == "extend" else domain.name
    growing.watch.say(f"{domain.name}: {decision.way}; {decision.reason}")
    growing.rows[domain.name] = {
        "decision": decision.way,
        "expert": expert,
        "reason": decision.reason,
        **near.to_json(),
    }
    return near, decision


def _arrive(growing: Growing, domain: Domain) -> None:
    """Let a domain get its expert, or extend the nearest."""
    start = time.perf_counter()
    near, decision = _decided(growing, domain)
    run_at = make_folder(run_folder("library grow", growing.config, growing.config.out))
    fit = _fit_for(growing, near.nearest, Parts(run_at))
    folder = run_at / "checkpoints" / domain.name
    bar = StepBar(growing.watch.begin(f"training {domain.name}", fit.steps))
    row = growing.rows[domain.name]
    if decision.way == "extend":
        assert near.nearest is not None, "there is a nearest to extend"
        trained, row["kept_as"] = _extend(growing, near.nearest, domain, fit, folder=folder, bar=bar)
    else:
        trained = fit_domain(growing.base, domain, config=fit, checkpoint=folder, logger=bar)
        growing.library.add(trained.expert, measured=trained.curve)
        growing.own[domain.name] = growing.routed[domain.name] = domain
    bar.update(fit.steps)
    shutil.rmtree(folder, ignore_errors=True)
    _say_all(growing.watch, [f"{trained.expert.name}: {line}" for line in trained.expert.card.warnings])
    row["tokens_trained"] = trained.expert.card.tokens_seen
    row["seconds"] = round(time.perf_counter() - start, 3)


def _extend(
    growing: Growing, name: str, domain: Domain, fit: FitConfig, *, folder: Path, bar: StepBar
) -> tuple[Trained, str | None]:
    """Return the expert that goes on from the one of this name, in its place, and the name that one is kept under."""
    library, own = growing.library, growing.own[name]
    aside = aside_name(library, name)
    old = library[name] if growing.config.replace else library[name].renamed(aside)
    trained = fit_further(
        growing.base, old, Corpus((own, domain)), config=fit, name=name, checkpoint=folder, logger=bar
    )
    put_in_place(library, trained.expert, aside=aside, curve=trained.curve)
    growing.own[name] = growing.routed[name] = together(name, (own, domain))
    if growing.config.replace:
        remove_expert(library, aside, keep_descendants=True)
        return trained, None
    growing.routed[aside] = together(aside, (own,))
    return trained, aside


def _fit_for(growing: Growing, nearest: str | None, parts: Parts) -> FitConfig:
    """Return how an expert is trained: as the nearest was, or another that was fitted, or as `train` does.

    parts: where a speed is kept once it was measured, so that a run can go on.
    """
    config, library = growing.config, growing.library
    names = [*([nearest] if nearest else []), *speakers(library)]
    found = (settings_like(library.card(name)) for name in names)
    fit = next((each for each in found if each is not None), FitConfig())
    fit = replace(fit, seed=config.common.seed, threads=torch.get_num_threads())
    steps = config.steps or fit.steps
    if config.budget:
        budget = parse_budget(config.budget)
        tokens = budget.tokens
        if budget.seconds is not None:
            asked = [asdict(replace(fit, steps=1)), growing.base.fingerprint.short, str(growing.base.dtype)]
            speed = parts.values("speed", inputs=asked, compute=lambda: tokens_per_second(growing.base, fit))
            tokens = int(budget.seconds * speed)
        steps = fit.steps if tokens is None else max(1, tokens // fit.tokens_per_step)
    return replace(fit, steps=steps)


def _consolidate(growing: Growing) -> list[Merged]:
    """Return the mergers until no more experts are left than asked for."""
    done: list[Merged] = []
    library, most = growing.library, growing.config.most
    while most and len(speakers(library)) > most:
        merged = merge_most_alike(library)
        if merged is None:
            growing.watch.say(
                f"{len(speakers(library))} experts are left, more than --most {most}: no two of them are low-rank or "
                "rescaling experts of one kind, which alone can be merged"
            )
            break
        one, other = merged.experts
        growing.watch.say(
            f"merged {one} and {other} (cosine {merged.similarity:.3f}) into {merged.name}, relative error "
            f"{merged.relative_error:.3f}"
        )
        texts = [growing.own.pop(name, None) for name in merged.experts]
        for name in merged.experts:
            growing.routed.pop(name, None)
        known = [each for each in texts if each is not None]
        if len(known) == len(texts):
            growing.own[merged.name] = growing.routed[merged.name] = together(merged.name, known)
        done.append(merged)
    return done


def _texts(growing: Growing) -> Corpus:
    """Return the texts by which routers tell the experts apart, a domain named after each."""
    texts = {**growing.own, **growing.routed}
    return Corpus(tuple(domain for name, domain in sorted(texts.items()) if name in growing.library))


def _perplexities(judge: Judge | None, library: Library) -> dict[str, float]:
    return {} if judge is None else judge.perplexities(library)


def _moved(
    judge: Judge | None, library: Library, *, before: Mapping[str, float], told: Mapping[str, str]
) -> dict[str, dict[str, Any]]:
    """Return each domain's perplexity under the base, and under the default ensemble before and after."""
    if judge is None:
        return {}
    after, base = judge.perplexities(library), judge.perplexities(None)
    return {
        name: {"text": told[name], "base": base[name], "before": before[name], "after": after[name]} for name in told
    }


def _told_experts(before: Mapping[str, str], after: Mapping[str, str]) -> dict[str, Any]:
    """Return who came, changed and went; those that were not touched with the sha256 of their payloads."""
    both = before.keys() & after.keys()
    return {
        "new": sorted(after.keys() - before.keys()),
        "replaced": sorted(name for name in both if before[name] != after[name]),
        "removed": sorted(before.keys() - after.keys()),
        "untouched": {name: after[name] for name in sorted(both) if before[name] == after[name]},
    }


def _say_all(watch: Watch, lines: list[str]) -> None:
    for line in lines:
        watch.say(line)
