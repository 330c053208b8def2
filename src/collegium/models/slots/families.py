"""Families: linear layers that read the very same input (q, k and v; gate and up), found by one small forward."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn


@torch.no_grad()
def find_families(model: Any, paths: Iterable[str]) -> dict[str, tuple[str, ...]]:  # noqa: ANN401
    """Return path -> the layers that read the same tensor, in the order in which they run; lone ones are left out."""
    read: list[tuple[str, Tensor]] = []

    def note(path: str) -> Any:  # noqa: ANN401 - torch's hook
        def hook(module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            read.append((path, inputs[0]))

        return hook

    handles = [model.get_submodule(path).register_forward_pre_hook(note(path)) for path in paths]
    try:
        device = next(model.parameters()).device
        model.base_model(input_ids=torch.zeros(1, 2, dtype=torch.long, device=device), use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    families: dict[int, list[str]] = {}
    for path, tensor in read:
        families.setdefault(id(tensor), []).append(path)
    return {path: tuple(family) for family in families.values() if len(family) > 1 for path in family}
