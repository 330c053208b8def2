"""Whole models with a head: transformers' sequence classification models, branched from a base."""

import copy
from typing import Any

import torch

from collegium.core.errors import BaseModelError
from collegium.models import Base, HeadWeights
from collegium.models.quiet import quiet_transformers


def classifier_of(base: Base, *, pad_token: int | None, head: HeadWeights, name: str) -> Base:
    """Return a sequence classification model with the base's weights and a copy of a head, in float32.

    Raises BaseModelError for an architecture of which transformers has none.
    """
    from transformers import AutoModelForSequenceClassification

    config = copy.deepcopy(base.model.config)
    config.num_labels, config.pad_token_id = 1, pad_token
    with quiet_transformers():
        try:
            model: Any = AutoModelForSequenceClassification.from_config(config, dtype=torch.float32)
        except ValueError as error:
            raise BaseModelError(
                f"transformers has no sequence classification model of {type(base.model).__name__}, so no whole model "
                "of it can be a judge. Use adapters: --design arliss."
            ) from error
    inside = {key: value.float() for key, value in base.inner.state_dict().items()}
    missing, odd = model.base_model.load_state_dict(inside, strict=False)
    if odd or any(not each.startswith("pooler.") for each in missing):
        raise BaseModelError(f"{type(model).__name__} has other weights than {base.name}: {[*odd, *missing][:3]}.")
    with torch.no_grad():
        own = _linear_head(model)
        own.weight.copy_(head.weight)
        if own.bias is not None:
            own.bias.zero_()
    return Base.from_model(
        model.to(base.device), base.tokenizer, name=name, source=f"a judge branched from {base.source}"
    )


def head_of(model: Base) -> HeadWeights:
    """Return the head of a sequence classification model; raises BaseModelError for one that is no linear layer."""
    head = _linear_head(model.model)
    module = next(name for name in ("score", "classifier") if getattr(model.model, name, None) is head)
    return HeadWeights(head.weight, head.bias, module)


def _linear_head(model: Any) -> torch.nn.Linear:  # noqa: ANN401 - a transformers model
    for name in ("score", "classifier"):
        head = getattr(model, name, None)
        if isinstance(head, torch.nn.Linear):
            return head
    raise BaseModelError(
        f"{type(model).__name__} has no head that is one linear layer (`score` or `classifier`), so it cannot "
        "be a judge."
    )
