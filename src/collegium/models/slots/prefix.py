"""Prefixes: an attention function that shows each row's queries its experts' keys and values first.

It is registered with transformers under a name of ours and stands in for the model's own only while a prefix is
attached, and in runs that are trained in bfloat16, where its backward is faster. Where a run has no prefix it says what
the model's own does.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from collegium.models.slots import attention

if TYPE_CHECKING:
    from collegium.models.slots.slots import Slots

ATTENTION = "collegium"
_TORCH = "sdpa"
_OWNERS: "WeakKeyDictionary[nn.Module, tuple[Slots, str]]" = WeakKeyDictionary()


def stand_in(module: nn.Module, path: str, slots: "Slots") -> None:
    """Let an attention module of a base ask its slots for prefixes."""
    _register()
    _OWNERS[module] = (slots, path)


@contextmanager
def trained_attention(model: Any, dtype: torch.dtype) -> Iterator[None]:  # noqa: ANN401 - a transformers model
    """Let a model's attention be ours inside the `with` where its gradients may be asked for in bfloat16.

    Its configuration names ours only meanwhile. One that computes parts anew in the backward, after that, stays as it
    is, and so does one that is not torch's own attention by transformers' interface.
    """
    config = model.config.get_text_config()
    asked = torch.is_grad_enabled() and dtype == torch.bfloat16 and config._attn_implementation == _TORCH
    if not asked or not model._can_set_attn_implementation() or _computes_anew(model):
        yield
        return
    _register()
    config._attn_implementation = ATTENTION
    try:
        yield
    finally:
        config._attn_implementation = _TORCH


def _computes_anew(model: nn.Module) -> bool:
    return any(getattr(module, "gradient_checkpointing", False) for module in model.modules())


def _register() -> None:
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register(ATTENTION, attend)
    AttentionMaskInterface.register(ATTENTION, sdpa_mask)


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Return attention with the prefix columns of the run before the text's own."""
    slots, path = _OWNERS.get(module, (None, ""))
    run = None if slots is None else slots.run
    place = None if run is None else run.places.get(path)
    if run is None or place is None or place.prefix is None:
        return attention.attend(module, query, key, value, attention_mask, **kwargs)
    first_keys, first_values, scores = place.prefix.seen(run.weights(place.block, place.prefix.open))
    scores = scores.to(query.dtype)
    own = _additive(attention_mask, query, key, causal=getattr(module, "is_causal", True))
    shape = (query.shape[0], 1, query.shape[2])
    mask = torch.cat([scores.expand(*shape, -1), own.expand(*shape, -1)], dim=-1)
    keys, values = torch.cat([first_keys, key], dim=2), torch.cat([first_values, value], dim=2)
    kwargs.pop("is_causal", None)
    return attention.attend(module, query, keys, values, mask, is_causal=False, **kwargs)


def _additive(mask: Tensor | None, query: Tensor, key: Tensor, *, causal: bool) -> Tensor:
    """Return the text's own mask as scores to be added; none given means that of a causal layer, or of no mask."""
    if mask is None and not causal:
        return query.new_zeros(1, 1, 1, key.shape[2])
    if mask is None:
        queries, keys = query.shape[2], key.shape[2]
        place = torch.arange(keys, device=key.device)
        seen = place <= (place[-queries:, None] if queries else place[:0, None])
        mask = seen[None, None]
    if mask.dtype == torch.bool:
        return torch.zeros(mask.shape, dtype=query.dtype, device=query.device).masked_fill(~mask, float("-inf"))
    return mask.to(query.dtype)
