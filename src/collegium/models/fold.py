"""Folding adapters into a base's matrices: W' = diag(l_out) W diag(l_in) + sum_e w_e s_e B_e A_e, b' = l_out b.

l = 1 + sum_e w_e (l_e - 1) of the IA3 experts at a layer's output and at its input: as in the slots.
"""

import copy
import hashlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from collegium.core.errors import IncompatibleExpert
from collegium.models.parts import Adapter, Ia3Weights, LoraWeights, Part


@dataclass(frozen=True, eq=False)
class Change:
    """What happens to one linear layer: a matrix is added, outputs and inputs are rescaled by 1 + a shift."""

    added: Float[Tensor, "output input"] | None = None
    outputs: Float[Tensor, " output"] | None = None
    inputs: Float[Tensor, " input"] | None = None

    @property
    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Its tensors that are there, by name."""
        named = (("added", self.added), ("outputs", self.outputs), ("inputs", self.inputs))
        return ((name, tensor) for name, tensor in named if tensor is not None)

    def plus(self, weight: float, part: Part) -> "Change":
        """Return the change with a weighted part added."""
        if isinstance(part, LoraWeights):
            product = (weight * part.scale) * (part.b.detach().float() @ part.a.detach().float())
            return Change(_sum(self.added, product), self.outputs, self.inputs)
        assert isinstance(part, Ia3Weights), "checked by weighted_deltas"
        shift = weight * (part.factors.detach().float() - 1)
        if part.side == "output":
            return Change(self.added, _sum(self.outputs, shift), self.inputs)
        return Change(self.added, self.outputs, _sum(self.inputs, shift))

    def of(self, weight: Float[Tensor, "output input"]) -> Float[Tensor, "output input"]:
        """Return the changed matrix in float32."""
        changed = weight.float()
        if self.outputs is not None:
            changed = changed * (1 + self.outputs.to(weight.device))[:, None]
        if self.inputs is not None:
            changed = changed * (1 + self.inputs.to(weight.device))
        return changed if self.added is None else changed + self.added.to(weight.device)


def _sum(known: Tensor | None, new: Tensor) -> Tensor:
    return new if known is None else known + new


def weighted_deltas(adapters: Mapping[str, Adapter], weights: Mapping[str, float]) -> dict[str, Change]:
    """Return module path -> what the weighted adapters change there, in float32.

    Raises IncompatibleExpert for parts that change no matrix: bottlenecks, exchanged blocks, prefixes.
    """
    changes: dict[str, Change] = {}
    for name, weight in weights.items():
        for path, part in adapters[name].items():
            if not isinstance(part, LoraWeights | Ia3Weights):
                raise IncompatibleExpert(
                    f"expert {name!r} is of kind {part.kind!r}, which changes no matrix, so it cannot be merged into "
                    "one; lora and ia3 can. Use mix or ensemble."
                )
            changes[path] = changes.get(path, Change()).plus(weight, part)
    return changes


def folded_model(model: nn.Module, deltas: Mapping[str, Change], *, hooks: Collection[int]) -> Any:  # noqa: ANN401
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
    for path, change in deltas.items():
        _fold(copied.get_submodule(path), change)
    return copied


def _fold(site: Any, change: Change) -> None:  # noqa: ANN401 - a linear layer
    """Give a layer of the copy its changed matrix and bias; GPT-2's `Conv1D` keeps its matrix the other way round."""
    weight, turned = site.weight, not isinstance(site, nn.Linear)
    folded = change.of(weight.T if turned else weight)
    site.weight = nn.Parameter((folded.T if turned else folded).to(weight.dtype).contiguous(), requires_grad=False)
    bias = getattr(site, "bias", None)
    if bias is not None and change.outputs is not None:
        rescaled = bias.float() * (1 + change.outputs.to(bias.device))
        site.bias = nn.Parameter(rescaled.to(bias.dtype), requires_grad=False)


def folded_digest(weights_digest: str, deltas: Mapping[str, Change]) -> str:
    """Return a digest of the folded weights: the base's, and each change's bytes."""
    digest = hashlib.sha256(weights_digest.encode())
    for path in sorted(deltas):
        digest.update(path.encode())
        for name, tensor in deltas[path].tensors:
            digest.update(b"" if name == "added" else name.encode())
            digest.update(tensor.contiguous().cpu().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
