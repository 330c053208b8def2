"""Rotary positions: turning keys by so many positions, as the base itself would have."""

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import IncompatibleExpert
from collegium.models.base import Base

_MOVING = ("dynamic", "longrope")
"""Kinds of rotary positions whose frequencies depend on the length of the text."""


def base_keys(base: Base, tokens: Sequence[int], *, start: int = 0) -> list[tuple[Tensor, Tensor]]:
    """Return each block's keys and values, `[head seq size]`, of a text that starts at a position.

    Raises IncompatibleExpert for a base that keeps none.
    """
    if not base.causal:
        raise IncompatibleExpert(
            f"{base.name} ({type(base.model).__name__}) is an encoder, which keeps no keys and values of a text for "
            "the next one; an expert of kind `prefix` cannot begin as those of one. Use another kind."
        )
    from transformers import DynamicCache

    place = torch.arange(start, start + len(tokens), device=base.device)[None]
    cache = DynamicCache()
    with torch.no_grad():
        base.inner(
            input_ids=torch.tensor([list(tokens)], device=base.device),
            position_ids=place,
            past_key_values=cache,
            use_cache=True,
        )
    layers: Any = cache.layers
    return [(layer.keys[0], layer.values[0]) for layer in layers]


def turned(
    base: Base, keys: Mapping[int, Float[Tensor, "head prefix size"]], *, by: int
) -> dict[int, Float[Tensor, "head prefix size"]]:
    """Return keys of blocks, each turned on by so many positions: k' = R_by k.

    A query at position i and a key at j score (R_i q) . (R_j k), which depends on i - j alone: turning all keys by -P
    does what moving the text by P does.

    Raises IncompatibleExpert for a base whose keys do not turn this way: `why_not_rotary` says why.
    """
    reason = why_not_rotary(base, by=abs(by))
    if reason:
        raise IncompatibleExpert(f"{base.name} ({type(base.model).__name__}) {reason}.")
    return {block: _turn(base, block, each, by) for block, each in keys.items()}


def why_not_rotary(base: Base, *, by: int = 1) -> str:
    """Return why a base's keys are not turned by their positions alone, empty when they are.

    It is tried: the keys of a text of one token depend on its position by the rotation alone.

    >>> from collegium.testing.pico import random_base
    >>> why_not_rotary(random_base("llama"))
    ''
    >>> why_not_rotary(random_base("gpt2"))
    'has no rotary positions'
    """
    rotary = getattr(base.inner, "rotary_emb", None)
    if rotary is None:
        return "has no rotary positions"
    said = getattr(rotary, "rope_type", "default")
    moving = sorted({said} & set(_MOVING) if isinstance(said, str) else set(said.values()) & set(_MOVING))
    if moving:
        return f"has rotary positions of type {moving[0]!r}, which depend on the length of the text"
    here, there = (base_keys(base, [0], start=start) for start in (0, by))
    limit = 1e-3 if base.dtype == torch.float32 else 3e-2
    for block, ((key, _), (moved, _)) in enumerate(zip(here, there, strict=True)):
        if (_turn(base, block, key, by) - moved).norm() > limit * moved.norm():
            return "turns its keys otherwise than by halves, or not by position alone"
    return ""


def _turn(base: Base, block: int, keys: Tensor, by: int) -> Tensor:
    """Return R_by k: the first numbers of a head are pairs (n, n + half), each turned by its own frequency."""
    cos, sin = (each.to(keys.device) for each in _angles(base, block, by))
    width = cos.shape[-1]
    turning = keys[..., :width].float()
    first, second = turning.chunk(2, dim=-1)
    turned = turning * cos + torch.cat([-second, first], dim=-1) * sin
    return torch.cat([turned.to(keys.dtype), keys[..., width:]], dim=-1)


def _angles(base: Base, block: int, by: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines of a block for so many positions, without what some bases scale them by."""
    rotary: Any = base.inner.rotary_emb
    like = torch.zeros(1, device=base.device)
    place = torch.tensor([[0, by]], device=base.device)
    kinds = {"layer_type": base.config.layer_types[block]} if "layer_type" in _arguments(rotary) else {}
    cos, sin = rotary(like, place, **kinds)
    return cos[0, 1] / cos[0, 0], sin[0, 1] / cos[0, 0]


def _arguments(rotary: Any) -> Mapping[str, inspect.Parameter]:  # noqa: ANN401 - a transformers module
    return inspect.signature(rotary.forward).parameters
