"""One expert trained further on new documents, and put in the place of the earlier one."""

import dataclasses
import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.compose import Cast, Mix, assemble, attach_expert
from collegium.core.errors import LibraryError
from collegium.core.files import staged_folder
from collegium.core.names import FITTED_ROUTERS
from collegium.core.protocols import LanguageModel
from collegium.data import Document, Domain, cut
from collegium.experts import (
    Expert,
    FitConfig,
    Origin,
    Trained,
    WholePayload,
    fit_documents,
    fit_whole_documents,
    load_expert,
    open_whole,
)
from collegium.experts.average import joined_documents
from collegium.infer import held_out, perplexities, score_text
from collegium.library import Library, forget_prototypes, replace_expert
from collegium.models import Base
from collegium.recipes.building.training import StepBar
from collegium.recipes.keep import grow_prior
from collegium.recipes.watch import Watch
from collegium.routers import fixed
from collegium.routers.fitted import load_fit, with_row
from collegium.train import History

HELD_OUT_TOKENS = 8192
"""At most so many tokens of the new documents say how good an expert is before and after."""
_CARRIED = ("classifier", "cluster")
"""Routers whose rows are made of a domain's texts alone, whoever the expert of it is."""


@dataclass(frozen=True)
class Further:
    """One expert to be trained further: on which documents, from which payload, in which folder."""

    name: str
    documents: tuple[Document, ...]
    before: str
    folder: Path

    @property
    def earlier(self) -> Path:
        """Where the expert is kept as it was."""
        return self.folder / "before" / self.name

    @property
    def work(self) -> Path:
        """What is deleted once the new expert is in its place."""
        return self.folder / "work" / self.name

    @property
    def checkpoints(self) -> Path:
        """Where the fit leaves checkpoints."""
        return self.work / "checkpoints"


def keep_earlier(task: Further, library: Library) -> None:
    """Keep a copy of the expert as it is, from which it can be added again; raises LibraryError when it is another."""
    if task.earlier.exists():
        return
    if library.expert_digest(task.name) != task.before:
        raise LibraryError(
            f"expert {task.name!r} was changed or removed since this update had sorted the documents. Run it again "
            "with another --out, which sorts them anew."
        )
    with staged_folder(task.earlier) as aside:
        for path in (library.path / "experts" / task.name).iterdir():
            if path.is_file():
                shutil.copyfile(path, aside / path.name)


def was_replaced(task: Further, library: Library) -> bool:
    """Return whether this update has put the new expert in its place already, before it was interrupted."""
    return task.name in library and library.card(task.name).parents.get(task.name) == task.before


def train_further(
    base: Base, library: Library, task: Further, *, fit: FitConfig, keep_descendants: bool, watch: Watch
) -> bool:
    """Train an expert further and put it in its own place; return False, with nothing changed, when it gained nothing.

    Raises what the fit raises, and LibraryError when the expert was replaced meanwhile.
    """
    earlier = load_expert(task.earlier, base=library.base_fingerprint, sites=library.sites)
    bar = StepBar(watch.begin(f"training {task.name} further", fit.steps))
    trained = _trained(base, earlier, task, fit=fit, logger=bar)
    bar.update(fit.steps)
    gained = has_gained(trained.history)
    if gained:
        replace_expert(library, trained.expert, measured=trained.curve, keep_descendants=keep_descendants)
    return gained


def _trained(base: Base, earlier: Expert, task: Further, *, fit: FitConfig, logger: StepBar) -> Trained:
    domain = Domain(task.name, task.documents)
    split, card = domain.split(), earlier.card
    origin = Origin(card.domain, card.sources, joined_documents([card.documents, split.hashes]))
    if isinstance(earlier.payload, WholePayload):
        return fit_whole_documents(
            base,
            split.train,
            dev=split.dev,
            config=fit,
            parents=[earlier],
            name=task.name,
            origin=origin,
            checkpoint=task.checkpoints,
            logger=logger,
        )
    kind = earlier.payload.kind
    assert kind != "whole"
    return fit_documents(
        base,
        split.train,
        dev=split.dev,
        config=dataclasses.replace(fit, kind=kind),
        name=task.name,
        origin=origin,
        begin=earlier,
        checkpoint=task.checkpoints,
        logger=logger,
    )


def has_gained(history: History) -> bool:
    """Return whether a fit went below where it had begun, on held-out text."""
    best = history.best
    return best is not None and best.loss < history.evaluations[0].loss


def carry_rows(base: Base, library: Library, name: str) -> list[str]:
    """Let routers know an expert in its new form; return those that must be fitted again.

    A row that is made of texts stays; the cached prior scores the new one on its texts; gates are another's.
    """
    stale = []
    for router in library.router_names():
        _, card = library.load_router(router)
        if name not in card.get("experts", ()):
            continue
        if router in _CARRIED:
            library.update_router(router, lambda tensors, card: (tensors, with_row(card, library, name)))
        elif router in FITTED_ROUTERS:
            load_fit(library, router, router=router)
            grow_prior(assemble(base, library), library, name)
        else:
            stale.append(router)
    return stale


def perplexity_of(base: Base, expert: Expert, documents: Sequence[Document], *, window: int) -> float:
    """Return an expert's perplexity on documents."""
    windows = cut(documents, base.tokenizer, window=window, budget_tokens=HELD_OUT_TOKENS)
    text = held_out({expert.name: windows}, context=1)
    return perplexities(score_text(_speaker(base, expert), text), text)[expert.name]


def _speaker(base: Base, expert: Expert) -> LanguageModel:
    if isinstance(expert.payload, WholePayload):
        return open_whole(expert, base)
    return Mix(base, {expert.name: attach_expert(base, expert)}, fixed({expert.name: 1.0}).bind((expert.name,)))


def figures(base: Base, library: Library, task: Further, *, window: int) -> dict[str, Any]:
    """Return what became of an updated expert: its lineage, and perplexity before and after on documents of no fit."""
    split = Domain(task.name, task.documents).split()
    earlier = load_expert(task.earlier, base=library.base_fingerprint, sites=library.sites)
    experts = {"before": earlier, "after": library[task.name]}
    found = {when: perplexity_of(base, each, split.test, window=window) for when, each in experts.items()}
    card = library.card(task.name)
    return {
        "outcome": "updated",
        "documents": len(task.documents),
        "train_documents": len(split.train),
        "held_out_documents": len(split.test),
        "tokens_seen": card.tokens_seen,
        "perplexity_before": round(found["before"], 4) if math.isfinite(found["before"]) else None,
        "perplexity_after": round(found["after"], 4) if math.isfinite(found["after"]) else None,
        "digest_before": task.before,
        "digest_after": library.expert_digest(task.name),
        "earlier": str(task.earlier),
    }


def finish(task: Further, library: Library) -> None:
    """Forget what was derived of the earlier expert, and the checkpoints."""
    forget_prototypes(library, task.before)
    shutil.rmtree(task.work, ignore_errors=True)


def ready_cast(base: Base, library: Library) -> Cast:
    """Return a library's experts ready to speak; raises LibraryError when there is none to update."""
    if not library.names(task="language"):
        raise LibraryError(
            f"{library.path} holds no language expert, so there is none to update. Make some first: `collegium train "
            "DATA --library LIB`."
        )
    return assemble(base, library)
