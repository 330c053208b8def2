"""`library update`: each incoming document to its expert, and that one alone is trained further.

Experts never change on disk: the new one takes the place of the earlier one, whose payload it names as its parent, and
the earlier one stays in the run's folder. Interrupted, the same command goes on; documents that an expert's card lists
are not read again.
"""

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.cards import content_hash
from collegium.core.errors import CollegiumError, ConfigError, TrainingError
from collegium.data import Document, read_documents
from collegium.experts import FitConfig, resolve
from collegium.library import Library, check_descendants
from collegium.models import Base
from collegium.recipes.building.parts import Parts
from collegium.recipes.common import Common
from collegium.recipes.held_out import seen_hashes
from collegium.recipes.opening import open_library
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.updating.further import (
    Further,
    carry_rows,
    figures,
    finish,
    keep_earlier,
    ready_cast,
    train_further,
    was_replaced,
)
from collegium.recipes.updating.sorting import bound_doubter, bound_router, sort_documents, trainable
from collegium.recipes.watch import Watch

COMMAND = "library update"
POSTERIOR = "posterior"


@dataclass(frozen=True)
class UpdateConfig:
    """Give incoming documents to the experts they belong to, and train those further; all others stay as they are."""

    library: Positional[Path]
    """The library of experts."""
    docs: Positional[Path]
    """A folder of documents, however named and sorted, or a file of them."""
    router: str = POSTERIOR
    """Who says whose a document is: posterior (and the library's classifier, where it was fitted, whether it is
    anybody's), or another router that was fitted for the library."""
    experts: tuple[str, ...] = ()
    """Only these are trained further; documents of others are left."""
    keep_descendants: bool = False
    """Train further experts that others were made from, too; those then name a parent that is gone."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    out: Path | None = None
    """Where checkpoints and the earlier experts lie; default runs/library-update-HASH."""
    dry_run: bool = False
    """Sort the documents and say whose they are, then stop."""
    fit: OmitArgPrefixes[FitConfig] = field(default_factory=FitConfig)
    """How an expert is trained further; kind and sizes are its own."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: UpdateConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: what moved, what was left and why, and that all other experts are as they were.

    Raises TrainingError at the end when an expert failed; those that did not are in the library by then.
    """
    start = time.perf_counter()
    if config.fit.kind != FitConfig().kind:
        raise ConfigError("every expert is trained further as what it is: leave --kind out.")
    fit = resolve_further(config, threads=config.common.apply_threads())
    base, _ = open_library(config.library, config.common)
    library = Library(config.library, base=base)
    for name in config.experts:
        library.card(name)  # one that is not there is told
    documents = read_documents(config.docs, columns=config.columns or None)
    folder = _folder(config, documents, threads=fit.threads or 1)
    plan = _plan(config, base, library, documents, Parts(folder, read_only=config.dry_run), watch=watch)
    tasks, short = _tasks(config, plan, documents, folder)
    for name, mine in plan["mine"].items():
        watch.say(f"{name}: {len(mine)} documents")
    for why, count in _counts(plan["left"]).items():
        watch.say(f"left: {count} documents ({_TOLD[why]})")
    if config.dry_run:
        return make_card(COMMAND, config, _result(config, library, plan, short, documents), time.perf_counter() - start)
    for task in tasks:
        check_descendants(library, task.name, keep=config.keep_descendants or was_replaced(task, library))
    make_folder(folder)
    outcome, failed = _train(config, base, library, tasks, fit=fit, watch=watch)
    if failed:
        told = "; ".join(f"{name}: {error}" for name, error in failed.items())
        raise TrainingError(f"{len(failed)} of {len(tasks)} experts failed, the others are kept. {told}")
    result = _result(config, library, plan, {**short, **outcome}, documents)
    seconds = time.perf_counter() - start
    card = make_card(COMMAND, config, {**result, "seconds": round(seconds, 3)}, seconds)
    save_card(card, folder)
    return card


def resolve_further(config: UpdateConfig, *, threads: int) -> FitConfig:
    """Return the settings with seed and threads; raises ConfigError for sizes, which are the experts' own."""
    plain = FitConfig()
    for name in ("rank", "alpha", "targets", "layers", "prefix_tokens"):
        if getattr(config.fit, name) != getattr(plain, name):
            raise ConfigError(f"every expert is trained further in its own size: leave --{name.replace('_', '-')} out.")
    resolve(config.fit)
    return dataclasses.replace(config.fit, seed=config.common.seed, threads=threads)


def _folder(config: UpdateConfig, documents: Sequence[Document], *, threads: int) -> Path:
    """Return the run's folder: another for other documents, however their folder is called."""
    read = content_hash(sorted(each.hash for each in documents))
    named = dataclasses.replace(config, docs=Path(read), common=dataclasses.replace(config.common, threads=threads))
    return run_folder(COMMAND, named, config.out)


def _plan(
    config: UpdateConfig,
    base: Base,
    library: Library,
    documents: Sequence[Document],
    parts: Parts,
    *,
    watch: Watch,
) -> dict[str, Any]:
    """Return whose each document is, as it was found when the run began, and every expert's payload then."""
    cast = ready_cast(base, library)
    hashes = sorted(each.hash for each in documents)
    inputs = [hashes, config.router, config.fit.window, base.fingerprint.short, str(base.dtype)]

    def compute() -> dict[str, Any]:
        seen = seen_hashes(library)
        fresh = [each for each in documents if each.hash not in seen]
        router = bound_router(config.router, cast, library)
        doubter = bound_doubter(cast, library) if config.router == POSTERIOR else None
        found = sort_documents(fresh, cast, router, doubter=doubter, window=config.fit.window, watch=watch)
        return {
            "mine": {name: [each.hash for each in mine] for name, mine in found.mine.items()},
            "left": {**found.left, **{each: "seen" for each in hashes if each in seen}},
            "before": {name: library.expert_digest(name) for name in library},
            "tokens": found.tokens,
        }

    return parts.values("plan", inputs=inputs, compute=compute)


def _tasks(
    config: UpdateConfig, plan: Mapping[str, Any], documents: Sequence[Document], folder: Path
) -> tuple[list[Further], dict[str, dict[str, Any]]]:
    """Return who is trained further, and the others that got documents, with the reason why not."""
    by_hash = {each.hash: each for each in documents}
    tasks, others = [], {}
    for name, hashes in plan["mine"].items():
        mine = tuple(by_hash[each] for each in hashes)
        if config.experts and name not in config.experts:
            others[name] = {"outcome": "not asked for", "documents": len(mine)}
        elif not trainable(mine):
            others[name] = {"outcome": "too few documents", "documents": len(mine)}
        else:
            tasks.append(Further(name, mine, plan["before"][name], folder))
    return tasks, others


def _train(
    config: UpdateConfig, base: Base, library: Library, tasks: Sequence[Further], *, fit: FitConfig, watch: Watch
) -> tuple[dict[str, dict[str, Any]], dict[str, str]]:
    outcome: dict[str, dict[str, Any]] = {}
    failed: dict[str, str] = {}
    for task in tasks:
        start = time.perf_counter()
        try:
            row = _one(config, base, library, task, fit=fit, watch=watch)
        except CollegiumError as error:
            failed[task.name] = str(error)
            continue
        outcome[task.name] = {**row, "seconds": round(time.perf_counter() - start, 3)}
    return outcome, failed


def _one(
    config: UpdateConfig, base: Base, library: Library, task: Further, *, fit: FitConfig, watch: Watch
) -> dict[str, Any]:
    """Return what became of one expert, going on from wherever an earlier run was interrupted."""
    if not was_replaced(task, library):
        keep_earlier(task, library)
        gained = train_further(base, library, task, fit=fit, keep_descendants=config.keep_descendants, watch=watch)
        if not gained:
            watch.say(f"{task.name}: gained nothing on held-out text, so it stays as it was")
            finish(task, library)
            return {"outcome": "no gain", "documents": len(task.documents)}
    stale = carry_rows(base, library, task.name)
    for router in stale:
        watch.say(f"router {router} was fitted for the earlier {task.name}: `collegium router fit {router}` again")
    row = figures(base, library, task, window=config.fit.window)
    finish(task, library)
    return {**row, "stale_routers": stale}


_TOLD = {
    "abstained": "the router gives them to no expert",
    "base": "the base reads them as well as the nearest expert",
    "short": "no token to predict",
    "seen": "an expert has been trained or chosen by them already",
}


def _counts(left: Mapping[str, str]) -> dict[str, int]:
    return {why: list(left.values()).count(why) for why in _TOLD if why in left.values()}


def _result(
    config: UpdateConfig,
    library: Library,
    plan: Mapping[str, Any],
    outcome: Mapping[str, dict[str, Any]],
    documents: Sequence[Document],
) -> dict[str, Any]:
    """Return the report as plain values."""
    origins = {each.hash: each.origin for each in documents}
    updated = {name for name, row in outcome.items() if row["outcome"] == "updated"}
    now = {name: library.expert_digest(name) for name in plan["before"]}
    others = {name: digest for name, digest in plan["before"].items() if name not in updated}
    mine = {name: {"outcome": "would be updated", "documents": len(each)} for name, each in plan["mine"].items()}
    return {
        "library": str(config.library),
        "router": config.router,
        "documents": len(documents),
        "sorted_tokens": plan["tokens"],
        "experts": dict(sorted({**mine, **outcome}.items())),
        "left": [{"document": origins[each] or each, "why": why} for each, why in sorted(plan["left"].items())],
        "left_counts": _counts(plan["left"]),
        "untouched": {name: digest for name, digest in others.items() if now[name] == digest},
        "changed_by_others": sorted(name for name, digest in others.items() if now[name] != digest),
    }
