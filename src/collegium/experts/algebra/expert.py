"""From experts to changes, and from a merged change to an expert whose card says what it was made of."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import IncompatibleExpert
from collegium.experts.algebra.compress import Compressed, compress
from collegium.experts.algebra.delta import KINDS, Delta, check_together, delta_of_adapter
from collegium.experts.average import joined_documents, parents_of
from collegium.experts.payloads import AdapterPayload, Expert


def delta_of(expert: Expert) -> Delta:
    """Return an expert's change of its base.

    Raises IncompatibleExpert, naming the expert, for kinds that are none: bottleneck, ffn, prefix, mta, whole.
    """
    if not isinstance(expert.payload, AdapterPayload):
        what = "a whole model" if expert.card.kind == "whole" else f"of kind {expert.card.kind!r}"
        raise IncompatibleExpert(
            f"expert {expert.name!r} is {what}, not a change of the base; {' and '.join(KINDS)} experts are "
            "added, scaled and negated. Whole models can be averaged: `merge`."
        )
    return delta_of_adapter(expert.payload.adapter, base=expert.card.base, name=f"expert {expert.name!r}")


def deltas_of(experts: Sequence[Expert]) -> dict[str, Delta]:
    """Return the experts' changes by name.

    Raises IncompatibleExpert for none at all, and for experts of different kinds, bases or tasks.
    """
    deltas = {expert.name: delta_of(expert) for expert in experts}
    check_together(list(deltas.values()), list(deltas))
    tasks = sorted({expert.card.task for expert in experts})
    if len(tasks) > 1:
        raise IncompatibleExpert(f"experts for one task are merged with each other, these are for {tasks}.")
    if tasks and tasks != ["language"]:
        raise IncompatibleExpert(
            f"experts for {tasks[0]} have a head each, and a sum of changes has none to read it with. Average what "
            "they say instead: a routed reward model does."
        )
    return deltas


def merged_expert(
    name: str,
    delta: Delta,
    parents: Sequence[Expert],
    *,
    recipe: Mapping[str, Any],
    rank: int | None = None,
    dtype: torch.dtype = torch.float32,
    documents: Mapping[str, tuple[str, ...]] | None = None,
) -> tuple[Expert, Compressed]:
    """Return a change as an expert, and how it was compressed.

    The card names the parents and their documents, and its recipe keeps `recipe`, the rank and the relative error.

    rank, dtype: see `compress`. documents: further ones that were read to choose how to merge, by split.
    """
    made = compress(delta, rank, dtype=dtype)
    kept = {**recipe, "rank": rank, "relative_error": made.error}
    payloads = [parent.payload for parent in parents]
    payload = AdapterPayload(
        made.adapter, any(isinstance(each, AdapterPayload) and each.fan_in_fan_out for each in payloads)
    )
    bases = {parent.card.base for parent in parents}
    card = ExpertCard(
        name=name,
        kind="ia3" if delta.kind == "ia3" else "lora",
        task=parents[0].card.task,
        base=None if None in bases else delta.base,
        documents=joined_documents([*(parent.card.documents for parent in parents), documents or {}]),
        sources=tuple(dict.fromkeys(source for parent in parents for source in parent.card.sources)),
        trained_parameters=payload.parameters,
        recipe=kept,
        recipe_hash=content_hash(kept),
        parents=parents_of(parents),
    )
    return Expert(card, payload), made
