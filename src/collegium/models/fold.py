"""Folding adapters into a base's matrices: W' = W + sum_e w_e s_e B_e A_e."""

import copy
import hashlib
from collections.abc import Collection, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from collegium.models.parts import Adapter, lora_parts


def weighted_deltas(adapters: Mapping[str, Adapter], weights: Mapping[str, float]) -> dict[str, Tensor]:
    """Return module path -> sum_e w_e s_e B_e A_e, `[out, in]` in float32."""
    deltas: dict[str, Tensor] = {}
    for name, weight in weights.items():
        for path, each in lora_parts(adapters[name]).items():
            delta = (weight * each.scale) * (each.b.detach().float() @ each.a.detach().float())
            deltas[path] = delta if path not in deltas else deltas[path] + delta
    return deltas


def folded_model(model: nn.Module, deltas: Mapping[str, Tensor], *, hooks: Collection[int]) -> Any:  # noqa: ANN401
    """Return a copy of a model with changed matrices; every other tensor is shared with the original.

    hooks: ids of the hooks that belong to the original alone.
    """
    shared: dict[int, Any] = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    copied = copy.deepcopy(model, shared)
    for module in copied.modules():
        for table in (
            module._forward_hooks,
            module._forward_pre_hooks,
            module._forward_hooks_with_kwargs,
            module._forward_pre_hooks_with_kwargs,
        ):
            for hook in [each for each in table if each in hooks]:
                del table[hook]
    for path, delta in deltas.items():
        site: Any = copied.get_submodule(path)
        weight = site.weight
        change = delta if isinstance(site, nn.Linear) else delta.T
        site.weight = nn.Parameter((weight.float() + change.to(weight.device)).to(weight.dtype), requires_grad=False)
    return copied


def folded_digest(weights_digest: str, deltas: Mapping[str, Tensor]) -> str:
    """Return a digest of the folded weights: the base's, and each change's bytes."""
    digest = hashlib.sha256(weights_digest.encode())
    for path in sorted(deltas):
        digest.update(path.encode())
        digest.update(deltas[path].contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
