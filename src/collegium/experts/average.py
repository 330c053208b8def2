"""Weighted averages of whole language models: the merge of Branch-Train-Merge, and its branches' starting points."""

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from collegium.core.cards import ExpertCard, content_hash
from collegium.core.errors import IncompatibleExpert, RoutingError
from collegium.experts.payloads import Expert, WholePayload
from collegium.experts.whole import open_whole, rebuilt
from collegium.models import Base
from collegium.models.fingerprint import hash_config


def average_whole(
    models: Sequence[Base], weights: Sequence[float], *, name: str, dtype: torch.dtype | None = None
) -> Base:
    """Return a new base whose parameters are the weighted average of models of one architecture.

    theta = sum_e w_e theta_e / sum_e w_e   [Branch-Train-Merge, li2022btm, section 3; papers.md 2.2]

    dtype: of the new parameters; default = the first model's.

    Raises IncompatibleExpert when architectures or vocabularies differ, RoutingError for weights without a sum.

    >>> from collegium.testing.pico import pico_base
    >>> one = average_whole([pico_base(0), pico_base(1)], [1.0, 0.0], name="one")
    >>> one.fingerprint.weights == pico_base(0).fingerprint.weights
    True
    """
    shares = _shares(weights, len(models))
    _check_alike(models)
    states = [model.model.state_dict() for model in models]
    first = models[0]
    dtype = dtype or first.dtype
    averaged = {key: _average([state[key] for state in states], shares, dtype) for key in states[0]}
    model = rebuilt(first.model, averaged, dtype=dtype)
    return Base.from_model(model, first.tokenizer, name=name, source=f"an average of {len(models)}")


def average_experts(experts: Sequence[Expert], weights: Sequence[float], *, name: str, base: Base) -> Expert:
    """Return a whole-model expert that is the weighted average of others, which its card names as parents."""
    opened = [open_whole(expert, base) for expert in experts]
    averaged = average_whole(opened, weights, name=name)
    recipe = {"method": "average", "weights": dict(zip((each.name for each in experts), weights, strict=True))}
    card = ExpertCard(
        name=name,
        kind="whole",
        task=experts[0].card.task,
        base=base.fingerprint,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        parents=parents_of(experts),
        documents=joined_documents([expert.card.documents for expert in experts]),
        sources=tuple(dict.fromkeys(source for expert in experts for source in expert.card.sources)),
    )
    return Expert(card, WholePayload(averaged.model))


def parents_of(experts: Sequence[Expert]) -> dict[str, str]:
    """Return what a card remembers of its parents: name -> checksum of the payload."""
    return {expert.name: expert.digest for expert in experts}


def _shares(weights: Sequence[float], count: int) -> list[float]:
    total = math.fsum(weights)
    if len(weights) != count or not all(map(math.isfinite, weights)) or min(weights, default=-1) < 0 or total <= 0:
        raise RoutingError(
            f"an average needs one weight per model, none negative and not all zero; got {list(weights)} for {count}."
        )
    return [weight / total for weight in weights]


def _check_alike(models: Sequence[Base]) -> None:
    first = models[0]
    for other in models[1:]:
        alike = hash_config(first.model.config.to_dict()) == hash_config(other.model.config.to_dict())
        if (
            type(first.model) is not type(other.model)
            or not alike
            or first.fingerprint.tokenizer != other.fingerprint.tokenizer
        ):
            raise IncompatibleExpert(
                f"an average needs models of one architecture and tokenizer; {first.name!r} and {other.name!r} differ."
            )


def _average(tensors: Sequence[Tensor], shares: Sequence[float], dtype: torch.dtype) -> Tensor:
    """Return the average in double precision; one model with all the weight is returned to the bit."""
    live = [(tensor, share) for tensor, share in zip(tensors, shares, strict=True) if share > 0]
    if not tensors[0].is_floating_point():
        return live[0][0].clone()
    if len(live) == 1:
        return live[0][0].to(dtype, copy=True)
    total = torch.zeros_like(live[0][0], dtype=torch.float64, device="cpu")
    for tensor, share in live:
        total += share * tensor.to(total)
    return total.to(tensors[0].device, dtype)


def joined_documents(tables: Sequence[Mapping[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """Return the documents of several cards by split, each once.

    >>> joined_documents([{"train": ("a", "b")}, {"train": ("b",), "dev": ("c",)}])
    {'dev': ('c',), 'train': ('a', 'b')}
    """
    splits = sorted({split for table in tables for split in table})
    return {split: tuple(dict.fromkeys(each for table in tables for each in table.get(split, ()))) for split in splits}
