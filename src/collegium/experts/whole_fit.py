"""Whole small language models as experts: branch from what is there, train on one domain, keep  [li2022btm].

    branch:  theta <- sum_i w_i theta_i        w = posterior over existing experts on the domain's dev text, or any
    train:   go on with theta on the domain alone, all weights
    merge:   keep it beside the others; ensemble and average know it from then on

Parameters, AdamW's means and what is kept are float32 whatever the base's dtype: near one, a bfloat16 cannot take a
step of 2e-4. Products are computed in the base's dtype.

Departure: the paper's seed phase is whatever made the base. Models are trained without dropout.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from collegium.core.errors import RoutingError
from collegium.core.names import check_name
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.data import Document, Domain
from collegium.experts.average import average_whole, parents_of
from collegium.experts.fit import Origin, Trained, checkpoints_in, finished_card, new_card, run_fit
from collegium.experts.objective import Texts, text_objective
from collegium.experts.payloads import Expert, WholePayload
from collegium.experts.recipe import FitConfig, memory_flags, recipe_of, resolve, using_threads
from collegium.experts.whole import open_whole
from collegium.models import BASE_ROWS, Base, memory_errors
from collegium.train import Logger


def fit_whole(
    base: Base,
    domain: Domain,
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    parents: Sequence[Expert] = (),
    weights: Mapping[str, float] | None = None,
    name: str | None = None,
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Trained:
    """Return a whole-model expert that branched from its parents and went on with one domain.

    base:    gives tokenizer, device and the dtype of products, and is branched from when there are no parents.
    weights: how much of each parent is in the branch, by name; `base` names the base itself. Default = all alike.

    Raises what `fit_expert` raises, and IncompatibleExpert when parents differ in architecture or tokenizer.
    """
    split = domain.split()
    return fit_whole_documents(
        base,
        split.train,
        dev=split.dev,
        config=config,
        parents=parents,
        weights=weights,
        name=name or domain.name,
        label=domain.name,
        origin=Origin.of(domain),
        checkpoint=checkpoint,
        logger=logger,
    )


def fit_whole_documents(
    base: Base,
    train: Sequence[Document],
    *,
    dev: Sequence[Document],
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    parents: Sequence[Expert] = (),
    weights: Mapping[str, float] | None = None,
    name: str,
    label: str | None = None,
    origin: Origin = Origin(),  # noqa: B008 - frozen
    checkpoint: Path | None = None,
    logger: Logger | None = None,
) -> Trained:
    """Return a whole-model expert trained on any documents, as `fit_documents` does for low-rank ones."""
    check_name(name)
    config, label = resolve(config, "whole"), label or name
    shares = branch_shares(parents, weights)
    recipe = {**recipe_of(config, "whole", base), "branch": shares}
    with using_threads(config.threads or 1), memory_errors(memory_flags(config, "whole")):
        model = branch(base, parents, shares, name=name)
        # Experts never change the base they come from: the branch holds copies of all weights.
        parameters = dict(model.model.requires_grad_(True).named_parameters())
        texts = {label: Texts(train, dev)}
        objective = text_objective(model, BASE_ROWS, texts=texts, config=config, label=label, dtype=base.dtype)
        lineage = {**(origin.parents or {}), **parents_of([each for each in parents if each.name in shares])}
        origin = dataclasses.replace(origin, parents=lineage)
        card = new_card(base, "whole", list(texts.values()), name=name, recipe=recipe, origin=origin)
        checkpoints = checkpoints_in(checkpoint, card, objective, config=config, label=label)
        done = run_fit(objective, parameters, config=config, checkpoints=checkpoints, logger=logger)
    model.model.requires_grad_(False)
    count = sum(tensor.numel() for tensor in parameters.values())
    return Trained(Expert(finished_card(card, done, count), WholePayload(model.model)), done.history, done.ended)


def branch(base: Base, parents: Sequence[Expert], shares: Mapping[str, float], *, name: str) -> Base:
    """Return a new model of the shares of its parents, with weights of its own, in float32."""
    exact = torch.float32
    models = [base if each == BASE else open_whole(_named(each, parents), base, dtype=exact) for each in shares]
    return average_whole(models, list(shares.values()), name=name, dtype=exact)


def branch_shares(parents: Sequence[Expert], weights: Mapping[str, float] | None) -> dict[str, float]:
    """Return how much of each parent a branch has, summing to 1; the base alone when there are no parents.

    >>> branch_shares((), None)
    {'base': 1.0}
    """
    known = [each.name for each in parents]
    chosen = dict(weights) if weights is not None else dict.fromkeys(known or [BASE], 1.0)
    odd = [each for each in chosen if each not in (*known, BASE)]
    if odd:
        raise RoutingError(f"there is a weight for {odd[0]!r}, which is no parent. {nearest(odd[0], [*known, BASE])}")
    live = {each: float(weight) for each, weight in chosen.items() if weight > 0}
    total = sum(live.values())
    if not 0 < total < float("inf") or any(weight < 0 for weight in chosen.values()):
        raise RoutingError(f"a branch needs weights of its parents that are not negative nor all zero, got {chosen}.")
    return {each: weight / total for each, weight in live.items()}


def _named(name: str, parents: Sequence[Expert]) -> Expert:
    return next(each for each in parents if each.name == name)
