"""Experts that stand on others: a policy is a change of its original model, not of the bare base.

An expert whose card has a context is run through together with the experts named there, at their weights. What is
attached under its name is the sum of all of them, so that it is one expert to whoever routes, mixes or merges it.
"""

from collections.abc import Mapping, Sequence

import torch

from collegium.core.cards import ExpertCard
from collegium.core.errors import IncompatibleExpert
from collegium.experts import AdapterPayload
from collegium.library import Library
from collegium.models import Adapter, LoraWeights

EXPERTS, REFERENCE = "experts", "reference"
"""Keys of a card's context: experts and weights, or a reference (?router=...&compose=...) to a composition of them."""


def is_on_composition(card: ExpertCard) -> bool:
    """Return whether an expert stands on a composition that no sum of adapters is, and so is opened by itself alone."""
    return REFERENCE in card.context


def adapter_in_context(library: Library, name: str) -> Adapter:
    """Return an expert's adapter together with what it stands on.

    Raises IncompatibleExpert when the library lacks that, has another expert of its name, or it is of another kind.
    """
    payload = library[name].payload
    assert isinstance(payload, AdapterPayload)
    card = library.card(name)
    weights: Mapping[str, float] = card.context.get(EXPERTS, {})
    if not weights:
        return payload.adapter
    below = [(float(weight), _below(library, card, other)) for other, weight in weights.items()]
    return summed([(1.0, payload.adapter), *below])


def _below(library: Library, card: ExpertCard, name: str) -> Adapter:
    """Return the adapter of an expert that another stands on."""
    wanted = card.parents.get(name)
    library = library.filter(None)
    if name not in library or (wanted is not None and library.expert_digest(name) != wanted):
        have = "has another expert of that name" if name in library else "lacks it"
        raise IncompatibleExpert(
            f"expert {card.name!r} was made on top of {name!r} and says nothing sensible without; this library {have}. "
            f"Put {name!r} back as it was, or make {card.name!r} anew."
        )
    return adapter_in_context(library, name)


def summed(parts: Sequence[tuple[float, Adapter]]) -> Adapter:
    """Return low-rank adapters, weighted, as one whose change is the sum of theirs: ranks add up, nothing is lost.

    Raises IncompatibleExpert for adapters of other kinds.
    """
    paths: dict[str, list[tuple[float, LoraWeights]]] = {}
    for weight, adapter in parts:
        for path, part in adapter.items():
            if not isinstance(part, LoraWeights):
                raise IncompatibleExpert(
                    f"an expert stands on low-rank experts (lora) alone, this one changes {path!r} by {part.kind}. "
                    "Merge what it is to stand on into a model first, and align that."
                )
            paths.setdefault(path, []).append((weight, part))
    return {
        path: LoraWeights(
            torch.cat([part.a for _, part in found]),
            torch.cat([part.b * (weight * part.scale) for weight, part in found], dim=1),
            1.0,
        )
        for path, found in paths.items()
    }
