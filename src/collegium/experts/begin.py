"""Beginning with an expert that is there: its copy is trained further, it stays as it is  [DEMix-DAPT].

new block <- copy of the block of the expert with the highest posterior; it alone is trained  [gururangan2022demix]
"""

import dataclasses
from typing import Any

import torch

from collegium.core.errors import ConfigError, IncompatibleExpert
from collegium.experts.folder import check_base
from collegium.experts.fresh import with_tensors
from collegium.experts.payloads import AdapterPayload, Expert
from collegium.experts.recipe import SETTINGS, FitConfig
from collegium.models import Adapter, Base

_SIZES = ("rank", "alpha", "targets", "layers", "prefix_tokens")


def settings_like(expert: Expert, config: FitConfig) -> FitConfig:
    """Return the settings with the sizes of an expert that is to be trained further.

    Raises IncompatibleExpert for one of another kind, ConfigError for sizes that were asked for and are not its.

    >>> from collegium.testing.pico import pico_base, random_expert
    >>> settings_like(random_expert(pico_base(), kind="ffn"), FitConfig(kind="ffn")).layers
    'all'
    """
    if expert.card.kind != config.kind:
        raise IncompatibleExpert(
            f"expert {expert.name!r} is of kind {expert.card.kind!r}, so what begins with it is not of kind "
            f"{config.kind!r}; give --kind {expert.card.kind}."
        )
    plain, recipe, chosen = FitConfig(), expert.card.recipe, {}
    for name in _SIZES:
        if name not in SETTINGS[config.kind] or name not in recipe:
            continue
        its, asked = _as_set(recipe[name]), getattr(config, name)
        if asked not in (its, getattr(plain, name)):
            raise ConfigError(
                f"what begins with expert {expert.name!r} has its {name}, {its!r}; got {asked!r}. Leave it out."
            )
        chosen[name] = its
    return dataclasses.replace(config, **chosen)


def copied_adapter(base: Base, expert: Expert) -> Adapter:
    """Return a copy of an expert's weights on the base's device, in float32 and ready to be trained.

    Raises IncompatibleExpert for a whole model, a judge, or an expert of another base.
    """
    if not isinstance(expert.payload, AdapterPayload) or expert.card.task != "language":
        raise IncompatibleExpert(
            f"expert {expert.name!r} is a {expert.card.kind} for {expert.card.task}; small language experts alone are "
            "trained further this way."
        )
    check_base(expert.card, base.fingerprint)
    return with_tensors(
        expert.payload.adapter,
        lambda tensor: tensor.detach().to(base.device, torch.float32, copy=True).requires_grad_(),
    )


def _as_set(value: Any) -> Any:  # noqa: ANN401 - a value of JSON
    return tuple(value) if isinstance(value, list) else value
