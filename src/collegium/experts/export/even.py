"""One rank and one scale for a whole adapter: what servers assume that read a single `r` and `lora_alpha`."""

from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from collegium.models import LoraWeights


def even(
    adapter: Mapping[str, LoraWeights], *, shapes: Mapping[str, tuple[int, int]] | None = None
) -> dict[str, LoraWeights]:
    """Return the same changes with one rank and one scale.

    A' = [A; 0], B' = [s B, 0] up to the largest rank: s B A = B' A'. Scales that agree already stay as they are.

    shapes: further layers (path -> inputs, outputs), which get a change of zero.

    >>> half, whole = LoraWeights(torch.ones(1, 2), torch.ones(3, 1), 0.5), LoraWeights(torch.eye(2), torch.eye(2))
    >>> evened = even({"q": half, "k": whole})
    >>> {path: (part.rank, part.scale, part.delta().sum().item()) for path, part in evened.items()}
    {'q': (2, 1.0, 3.0), 'k': (2, 1.0, 2.0)}
    """
    scales = {part.scale for part in adapter.values()}
    rank = max((part.rank for part in adapter.values()), default=1)
    scale = scales.pop() if len(scales) == 1 else 1.0
    evened = {path: _padded(_scaled(part, scale), rank) for path, part in adapter.items()}
    kind = next((part.a.dtype for part in adapter.values()), torch.float32)
    nothing = {
        path: LoraWeights(torch.zeros(rank, inputs, dtype=kind), torch.zeros(outputs, rank, dtype=kind), scale)
        for path, (inputs, outputs) in (shapes or {}).items()
        if path not in adapter
    }
    return evened | nothing


def _scaled(part: LoraWeights, scale: float) -> LoraWeights:
    return part if part.scale == scale else LoraWeights(part.a, part.b * (part.scale / scale), scale)


def _padded(part: LoraWeights, rank: int) -> LoraWeights:
    lacking = rank - part.rank
    if lacking == 0:
        return part
    a: Tensor = torch.cat([part.a, part.a.new_zeros(lacking, part.a.shape[1])])
    b: Tensor = torch.cat([part.b, part.b.new_zeros(part.b.shape[0], lacking)], dim=1)
    return replace(part, a=a, b=b)
