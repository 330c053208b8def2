"""Attention with a backward of ours where torch's is slow: training in bfloat16 on a processor.

There torch (2.13) takes queries 32 at a time until a text has 192 tokens, and a backward takes 1.7 to 8 times as
long as the plain products of `attention_gradients`; from 192 on it takes 64 or more and is as fast or faster. The
forward is transformers' own in every case, to the last bit; the gradients are nearer to those of float32 than torch's.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from collegium.ops.attention import attention_gradients

_FASTER_FROM_TOKENS = 192
"""From how many queries on torch's own backward is as fast; measured with 12 to 144 heads of 32, 64 and 128."""


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,  # noqa: ANN401
) -> tuple[Tensor, None]:
    """Return what transformers' `sdpa_attention_forward` does; its backward is ours where that is faster."""
    from transformers.integrations.sdpa_attention import sdpa_attention_forward

    if not _is_faster(module, (query, key, value), attention_mask, kwargs):
        return sdpa_attention_forward(module, query, key, value, attention_mask, **kwargs)
    return _Attention.apply(query, key, value, attention_mask, module, kwargs), None


def _is_faster(module: nn.Module, inputs: tuple[Tensor, ...], mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Return whether this is trained, in bfloat16 on a processor, short, and an attention whose gradients we know."""
    query, key, _ = inputs
    trained = torch.is_grad_enabled() and any(each.requires_grad for each in inputs)
    if not trained or torch.compiler.is_compiling() or (mask is not None and mask.requires_grad):
        return False
    if any(each.dtype != torch.bfloat16 or each.device.type != "cpu" for each in inputs):
        return False
    if options.get("dropout") or any(options.get(name) is not None for name in ("position_bias", "cache", "softcap")):
        return False
    if _is_causal(module, mask, options) and query.shape[2] != key.shape[2]:
        return False
    return query.shape[0] == key.shape[0] and 1 < query.shape[2] < _FASTER_FROM_TOKENS


def _is_causal(module: nn.Module, mask: Tensor | None, options: dict[str, Any]) -> bool:
    """Return whether transformers lets a query see the keys up to its own alone: told so, or its module's way."""
    told = options.get("is_causal")
    return mask is None and bool(getattr(module, "is_causal", True) if told is None else told)


class _Attention(torch.autograd.Function):
    """transformers' attention forward, `attention_gradients` backward."""

    @staticmethod
    def forward(
        ctx: Any,  # noqa: ANN401 - torch's
        query: Tensor,
        key: Tensor,
        value: Tensor,
        mask: Tensor | None,
        module: nn.Module,
        options: dict[str, Any],
    ) -> Tensor:
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        ctx.save_for_backward(query, key, value, mask)
        scale = options.get("scaling")
        ctx.scale = query.shape[-1] ** -0.5 if scale is None else scale
        ctx.causal = _is_causal(module, mask, options)
        return sdpa_attention_forward(module, query, key, value, mask, **options)[0]

    @staticmethod
    @once_differentiable
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride] - its decorator hides its parameters
        ctx: Any,  # noqa: ANN401 - torch's
        gradient: Tensor,
    ) -> tuple[Tensor | None, ...]:
        query, key, value, mask = ctx.saved_tensors
        found = attention_gradients(
            gradient.transpose(1, 2), query, key, value, mask, scale=ctx.scale, causal=ctx.causal
        )
        return (*found, None, None, None)
