"""Making experts: small changes of a base, trained on a domain's documents alone.

What each kind starts from is said in `fresh.py`. What an expert reads is drawn under seed and domain, its first weights
under the seed alone: an expert trained alone, in parallel or after others comes out the same, and all of one seed begin
alike, so that they can be compared by their weights and merge well. Departure from the papers: no dropout, and the
first weights are a candidate for the best.
"""

import dataclasses
import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from collegium.core.cards import ExpertCard, Kind, Source, content_hash
from collegium.core.errors import DataError
from collegium.core.names import check_name
from collegium.data import Corpus, Document, Domain
from collegium.experts.average import joined_documents, parents_of
from collegium.experts.begin import copied_adapter, settings_like
from collegium.experts.fresh import fresh_adapter, with_tensors
from collegium.experts.objective import Objective, Texts, text_objective, windows_hash
from collegium.experts.payloads import Expert, adapter_payload
from collegium.experts.recipe import FitConfig, loop_config, memory_flags, recipe_of, resolve, using_threads
from collegium.experts.trunk_cache import trunk_cached
from collegium.models import Base, RowPlan, memory_errors
from collegium.train import Checkpoints, Fit, History, Logger, fit

BEING_FITTED = ".being-fitted"
"""The name a new expert is attached under while it is trained; no name of an expert can begin with a dot."""


FURTHER = "go on with"
"""Begins the method of an expert that began as another, where one from the start has "fit"."""

ALIKE = "all experts"
"""The name under which the first weights of every expert are drawn."""


@dataclass(frozen=True, eq=False)
class Trained:
    """A new expert with its learning curve, and why training ended."""

    expert: Expert
    history: History
    ended: Literal["steps", "patience", "paused"]

    @property
    def curve(self) -> dict[str, Any]:
        """The learning curve as plain values: what is kept beside the card."""
        return {
            "kind": "training",
            "ended": self.ended,
            "held_out": [[each.step, each.loss] for each in self.history.evaluations],
            "loss": [[each.step, each.loss] for each in self.history.steps],
        }


@dataclass(frozen=True)
class Origin:
    """What a card says of where an expert comes from.

    domain:    its name, None for a fit over the documents of several.
    documents: hashes by split; default = those of the documents it was given.
    """

    domain: str | None = None
    sources: tuple[Source, ...] = ()
    documents: Mapping[str, tuple[str, ...]] | None = None
    parents: Mapping[str, str] | None = None

    @classmethod
    def of(cls, domain: Domain) -> "Origin":
        """Return what a card says of an expert of this domain; raises DataError under three documents."""
        return cls(domain.name, domain.sources, domain.split().hashes)

    @classmethod
    def of_several(cls, domains: Sequence[Domain]) -> "Origin":
        """Return what a card says of an expert of all of them; raises DataError for one of under three documents."""
        hashes = [each.split().hashes for each in domains]
        documents = {part: tuple(chain.from_iterable(each[part] for each in hashes)) for part in hashes[0]}
        return cls(sources=tuple(chain.from_iterable(each.sources for each in domains)), documents=documents)


def fit_expert(
    base: Base,
    domain: Domain,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    name: str | None = None,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Expert:
    """Return a small expert (`config.kind`) trained on a domain's train documents; it is named after the domain.

    An expert that does not beat the base on the domain's held-out text is returned with a warning on its card.
    checkpoint: a folder to go on from and to leave checkpoints in; delete it once the expert is kept.

    Raises DataError for too little text, TrainingError when the fit diverges, ResourceError when the disk or the
    memory is full, ConfigError when the folder holds checkpoints of another recipe, base or other documents.

    >>> from collegium.data import Document
    >>> from collegium.testing.pico import pico_base
    >>> domain = Domain("law", tuple(Document(text=f"Article {n}. " * 20) for n in range(9)))
    >>> fit_expert(pico_base(), domain, config=FitConfig(rank=2, steps=2, window=32)).name
    'law'
    """
    return fit_domain(base, domain, config=config, name=name, checkpoint=checkpoint, logger=logger).expert


def fit_domain(
    base: Base,
    domain: Domain,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    name: str | None = None,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Trained:
    """Return what `fit_expert` returns, with the learning curve."""
    origin = Origin.of(domain)
    return _fit(
        base,
        {domain.name: Texts.of(domain)},
        config=config,
        name=name or domain.name,
        label=domain.name,
        origin=origin,
        checkpoint=checkpoint,
        logger=logger,
    )


def fit_union(
    base: Base,
    corpus: Corpus,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    name: str,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Trained:
    """Return one small expert of all domains, trained on as many tokens of each: the dense baseline.

    The expert of K domains with K times the steps reads the very windows that the K domains' experts read.

    Raises what `fit_expert` raises, and DataError for a corpus without domains.
    """
    if not len(corpus):
        raise DataError(f"{name!r} cannot be learnt from no domains at all.")
    texts = {each.name: Texts.of(each) for each in corpus}
    origin = Origin.of_several(tuple(corpus))
    return _fit(base, texts, config=config, name=name, label=name, origin=origin, checkpoint=checkpoint, logger=logger)


def fit_further(
    base: Base,
    expert: Expert,
    corpus: Corpus,
    *,
    config: FitConfig,
    name: str | None = None,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Trained:
    """Return a small expert that begins as another and goes on with the documents of domains, as many tokens of each.

    The other stays what it is. The card has its domain, names it as the parent and lists its documents too.
    config: of the other's kind, rank and layers. name: default = the other's.

    Raises what `fit_union` raises, and IncompatibleExpert for a whole model, a head, or settings of another kind.
    """
    texts = {each.name: Texts.of(each) for each in corpus}
    added, config = Origin.of_several(tuple(corpus)), settings_like(expert, config)
    origin = Origin(
        expert.card.domain,
        tuple(dict.fromkeys((*expert.card.sources, *added.sources))),
        joined_documents([expert.card.documents, added.documents or {}]),
        parents_of([expert]),
    )
    name = name or expert.name
    return _fit(
        base,
        texts,
        config=config,
        name=name,
        label=name,
        start=expert,
        origin=origin,
        checkpoint=checkpoint,
        logger=logger,
    )


def fit_documents(
    base: Base,
    train: Sequence[Document],
    *,
    dev: Sequence[Document],
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    name: str,
    label: str | None = None,
    origin: Origin = Origin(),
    begin: Expert | None = None,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Trained:
    """Return an expert trained on any documents: one domain's, or a random part's.

    label: the name under which everything random is drawn; default = the expert's for the order in which it reads, and
    one name for the first weights of all.
    begin: the small expert whose copy is trained further, a parent on the new card; the new one is of its kind and
    sizes. Default = fresh weights.
    """
    if begin is not None:
        config = settings_like(begin, config)
        origin = dataclasses.replace(origin, parents={**(origin.parents or {}), begin.name: begin.digest})
    return _fit(
        base,
        {label or name: Texts(train, dev)},
        config=config,
        name=name,
        label=label or name,
        start=begin or label or ALIKE,
        origin=origin,
        checkpoint=checkpoint,
        logger=logger,
    )


def _fit(
    base: Base,
    texts: Mapping[str, Texts],
    *,
    config: FitConfig,
    name: str,
    label: str,
    start: str | Expert = ALIKE,
    origin: Origin,
    checkpoint: Path | None,
    logger: Logger | None,
) -> Trained:
    check_name(name)
    config = resolve(config)
    recipe = recipe_of(config, config.kind, base)
    if isinstance(start, Expert):
        recipe |= {"method": f"{FURTHER} {config.kind}"}
    with using_threads(config.threads or 1), memory_errors(memory_flags(config, config.kind)):
        objective = text_objective(base, RowPlan.one(BEING_FITTED), texts=texts, config=config, label=label)
        if isinstance(start, Expert):
            adapter = copied_adapter(base, start)
        else:
            adapter = fresh_adapter(base, config, start, tokens=objective.train.tokens)
        weights = {f"{path}.{key}": each for path, part in adapter.items() for key, each in part.tensors.items()}
        base.attach(BEING_FITTED, adapter)
        try:
            card = new_card(base, config.kind, list(texts.values()), name=name, recipe=recipe, origin=origin)
            checkpoints = checkpoints_in(checkpoint, card, objective, config=config, label=label)
            with trunk_cached(objective, adapter, config=config, folder=checkpoint) as cached:
                done = run_fit(cached, weights, config=config, checkpoints=checkpoints, logger=logger)
        finally:
            base.detach(BEING_FITTED)
    fitted = with_tensors(adapter, lambda tensor: tensor.detach().to("cpu", copy=True))
    payload = adapter_payload(base, fitted)
    return Trained(Expert(finished_card(card, done, payload.parameters), payload), done.history, done.ended)


def new_card(
    base: Base,
    kind: Kind,
    texts: Sequence[Texts],
    *,
    name: str,
    recipe: Mapping[str, Any],
    origin: Origin,
) -> ExpertCard:
    """Return the card of an expert before its first step."""
    hashes = {
        "train": tuple(document.hash for each in texts for document in each.train),
        "dev": tuple(document.hash for each in texts for document in each.dev),
    }
    return ExpertCard(
        name=name,
        kind=kind,
        base=base.fingerprint,
        domain=origin.domain,
        sources=origin.sources,
        documents=hashes if origin.documents is None else origin.documents,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        parents=origin.parents or {},
    )


def checkpoints_in(
    folder: Path | None, card: ExpertCard, objective: Objective, *, config: FitConfig, label: str
) -> Checkpoints | None:
    """Return the checkpoints of a fit: they belong to this recipe, base, parents, label and these windows alone."""
    if folder is None:
        return None
    identity = content_hash(
        {
            "recipe": card.recipe,
            "base": None if card.base is None else card.base.short,
            "parents": dict(card.parents),
            "label": label,
            "train": windows_hash(objective.train),
            "dev": windows_hash(objective.dev),
        }
    )
    return Checkpoints(folder, identity, every=config.evaluate_every)


def run_fit(
    objective: Objective,
    weights: Mapping[str, Tensor],
    *,
    config: FitConfig,
    checkpoints: Checkpoints | None,
    logger: Logger | None,
) -> Fit:
    """Return the fit of an objective; the weights are left at their best held-out loss."""
    return fit(
        weights,
        objective.loss,
        config=loop_config(config),
        evaluate=objective.held_out,
        checkpoints=checkpoints,
        logger=logger,
    )


def finished_card(card: ExpertCard, done: Fit, parameters: int) -> ExpertCard:
    """Return the card completed with what the fit went through; says so when nothing was gained."""
    start, best = done.history.evaluations[0], done.history.best
    warnings = card.warnings
    if best is None or best.loss >= start.loss:
        lowest = min((each.loss for each in done.history.evaluations[1:]), default=start.loss)
        warnings += (
            f"does not beat what it started from on its own held-out text: {start.loss:.4f} nats a token before "
            f"training, {lowest:.4f} at best after it; the starting weights were kept. Give the domain more text, "
            "or lower the learning rate.",
        )
    return dataclasses.replace(
        card,
        tokens_seen=done.history.counted,
        trained_parameters=parameters,
        warnings=warnings,
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
