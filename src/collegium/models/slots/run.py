"""A run: one forward of the base with rows, as the hooks see it."""

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from collegium.core.protocols import Gate
from collegium.models.gates import TaskGate
from collegium.models.rows import Rows
from collegium.models.slots.gated import GatedFamily, OpenTrace, Trace, note
from collegium.models.slots.mixture import Speak, routed_change
from collegium.models.slots.stacks import LowRankStack, Place
from collegium.ops.grouped import Change


@dataclass(frozen=True, eq=False)
class Shared:
    """The first matrices of places that read the same input, as one, and how many columns each has."""

    paths: tuple[str, ...]
    a: Float[Tensor, "cast input column"]
    widths: list[int]


@dataclass(eq=False)
class Run:
    """What is being run: the rows, from which block on they are apart, and what each place computes.

    trace: filled with what gates say, where somebody asked for it.
    read:  which tokens of each text are no padding, None = all of them; gates send no other to a feed-forward expert.
    """

    rows: Rows
    first: int
    places: Mapping[str, Place]
    shared: Mapping[str, Shared] = field(default_factory=dict)
    gated: Mapping[str, tuple[GatedFamily, int]] = field(default_factory=dict)
    trace: Trace | OpenTrace | None = None
    read: Bool[Tensor, "text seq"] | None = None
    heard: tuple[GatedFamily, Tensor, Change] | None = None
    repeated: list[tuple[Tensor, Tensor]] = field(default_factory=list)
    handed: dict[str, tuple[Tensor, Tensor]] = field(default_factory=dict)
    originals: dict[str, Tensor] = field(default_factory=dict)
    weights_by_block: dict[int, Tensor] = field(default_factory=dict)

    @property
    def apart(self) -> bool:
        """Whether rows are more, or others, than texts."""
        return self.rows.groups != 1

    def repeat(self, value: Any) -> Any:  # noqa: ANN401 - whatever a block is called with
        """Return a block's argument with every tensor of a text each made one of a row each."""
        if isinstance(value, Tensor):
            return self._repeat_tensor(value) if value.ndim > 1 and value.shape[0] == self.rows.texts else value
        if type(value) in {tuple, list}:
            return type(value)(self.repeat(part) for part in value)
        if type(value) is dict:
            return {key: self.repeat(part) for key, part in value.items()}
        return value

    def _repeat_tensor(self, value: Tensor) -> Tensor:
        for original, known in self.repeated:
            if original is value:
                return known
        known = self._by_row(value)
        self.repeated.append((value, known))
        return known

    def _by_row(self, value: Tensor) -> Tensor:
        if self.rows.groups is not None:
            return value.repeat(self.rows.groups, *(1 for _ in value.shape[1:]))
        return value[self.rows.text.to(value.device)]

    def enter(
        self, index: int, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        """Return a block's arguments by row; its hidden states come by row already, but to the first such block."""
        if index == self.first:
            return self.repeat(args), self.repeat(kwargs)
        rest = {key: value if key == "hidden_states" else self.repeat(value) for key, value in kwargs.items()}
        return (*args[:1], *self.repeat(args[1:])), rest

    def widen(self, hidden: Float[Tensor, "some seq hidden"], blocks: int) -> Float[Tensor, "row seq hidden"]:
        """Return hidden states by row, also where no block of so many had to be run by row."""
        return self._by_row(hidden) if self.apart and self.first >= blocks else hidden

    def weights(self, block: int, like: Tensor) -> Float[Tensor, "row_or_1 seq_or_1 k"] | None:
        """Return the weights that act at a block, in the dtype of `like`."""
        weights = self.rows.weights
        if weights is None:
            return None
        layer = block if weights.ndim == 4 else 0
        if layer not in self.weights_by_block:
            self.weights_by_block[layer] = (weights[layer] if weights.ndim == 4 else weights).to(
                like.device, like.dtype
            )
        return self.weights_by_block[layer]

    def rescaled_input(self, path: str, inputs: Tensor) -> Tensor | None:
        """Return the layer's input times its factors, None where nobody rescales it."""
        place = self.places.get(path)
        stacks = () if place is None else tuple(each for each in place.rescale if each.inputs)
        if place is None or not stacks:
            return None
        self.originals[path] = inputs
        return inputs * stacks[0].factors(self.weights(place.block, inputs))

    def linear(self, path: str, inputs: Tensor, output: Tensor) -> Tensor | None:
        """Return the output of a linear layer, changed; None where nobody changes it."""
        place = self.places.get(path)
        if place is None:
            return None
        inputs = self.originals.pop(path, inputs)
        for each in place.rescale:
            if not each.inputs:
                output = output * each.factors(self.weights(place.block, inputs))
        if path in self.gated:
            return self._gated(path, inputs, output)
        gate = self._gate(path)
        if gate is not None and place.low_rank:
            return self._weighed(place.low_rank[0], self._heard(path, gate, inputs), inputs, output)
        return self._low_rank(path, place, inputs, output)

    def _gate(self, path: str) -> Gate | None:
        return None if self.rows.gates is None else self.rows.gates.get(path)

    def _heard(self, path: str, gate: Gate, inputs: Tensor) -> tuple[Tensor, Tensor | None]:
        told = self.rows.told
        said = gate(inputs, told.to(inputs.device)) if isinstance(gate, TaskGate) and told is not None else gate(inputs)
        if self.trace is not None:
            note(self.trace, path, said, gate=gate, inputs=inputs)
        return said

    def _low_rank(self, path: str, place: Place, inputs: Tensor, output: Tensor) -> Tensor:
        weights = self.weights(place.block, inputs)
        for stack in place.low_rank:
            output = stack.add(output, self._thin(path, stack, inputs), weights)
        return output

    def _thin(self, path: str, stack: LowRankStack, inputs: Tensor) -> Tensor:
        """Return the first product, or what a place that reads the same input has handed down."""
        shared = self.shared.get(path)
        if shared is None:
            return stack.thin(inputs)
        handed = self.handed.pop(path, None)
        if handed is not None and handed[0] is inputs:
            return handed[1]
        parts = stack.thin(inputs, shared.a).split(shared.widths, dim=-1)
        own = parts[0]
        for other, part in zip(shared.paths, parts, strict=True):
            if other == path:
                own = part
            else:
                self.handed[other] = (inputs, part)
        return own

    def _gated(self, path: str, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output with what the chosen experts say added; the first place of a family asks for all."""
        family, number = self.gated[path]
        if self.heard is None or self.heard[0] is not family or self.heard[1] is not inputs:
            self.heard = (family, inputs, family.hear(inputs, self.trace))
        self.heard[2].add(output.view(-1, output.shape[-1]), number, family.b[number])
        return output

    def _weighed(
        self, stack: LowRankStack, said: tuple[Tensor, Tensor | None], inputs: Tensor, output: Tensor
    ) -> Tensor:
        """Return the output with the experts of a stack of mixed ranks added, as a gate weighs them."""
        weights, index = said
        if index is not None:
            weights = weights.new_zeros(*weights.shape[:-1], self.rows.index.shape[1]).scatter(-1, index, weights)
        return stack.add(output, stack.thin(inputs), weights.to(inputs.dtype))

    def block(self, path: str, module: nn.Module, inputs: Tensor, output: Any) -> Any:  # noqa: ANN401
        """Return the output of a feed-forward block on these inputs, changed; None where nobody changes it."""
        place = self.places.get(path)
        if place is None:
            return None
        whole, rest = (output[0], output[1:]) if isinstance(output, tuple) else (output, None)
        gate = self._gate(path)
        if gate is None:
            whole = self._in_parallel(module, place, inputs, whole)
        else:
            whole = self._mixed(module, place, self._heard(path, gate, inputs), inputs, whole)
        return whole if rest is None else (whole, *rest)

    def _in_parallel(self, module: nn.Module, place: Place, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the output with every expert's change of it, as the rows weigh them."""
        if place.exchange is not None:
            output = self._exchanged(module, place, inputs, output)
        for stack in place.low_rank:
            output = stack.add(output, stack.thin(inputs), self.weights(place.block, inputs))
        return output

    def _mixed(
        self, module: nn.Module, place: Place, said: tuple[Tensor, Tensor | None], inputs: Tensor, output: Tensor
    ) -> Tensor:
        """Return the output with the change of each token's own experts, as a gate weighs them."""
        if place.exchange is not None:
            weights, index = said
            flat = (weights.flatten(0, -2), None if index is None else index.flatten(0, -2))
            experts = self._senders(module, place, inputs)
            change = routed_change(inputs.flatten(0, -2), output.flatten(0, -2), flat, experts)
            output = output + change.view_as(output)
        for stack in place.low_rank:
            output = self._weighed(stack, said, inputs, output)
        return output

    def _senders(
        self, module: nn.Module, place: Place, inputs: Tensor
    ) -> list[tuple[int, Speak, Bool[Tensor, " token"] | None]]:
        """Return the exchanged blocks, each with the tokens of its rows that are no padding."""
        assert place.exchange is not None
        read, found = self.read_by_row(), []
        for tensors, rows, column in place.exchange.blocks:
            allowed = read
            if len(rows) < inputs.shape[0]:
                own = torch.zeros(inputs.shape[:-1], dtype=torch.bool, device=inputs.device)
                own[rows] = True
                allowed = own if read is None else own & read
            speak = functools.partial(_said, module, tensors)
            found.append((column, speak, None if allowed is None else allowed.flatten()))
        return found

    def read_by_row(self) -> Bool[Tensor, "row seq"] | None:
        """Return which tokens of each row are no padding."""
        return None if self.read is None else self.read[self.rows.text.to(self.read.device)]

    def _exchanged(self, module: nn.Module, place: Place, inputs: Tensor, output: Tensor) -> Tensor:
        """Return y + sum_e w_e (f_e(x) - y)."""
        assert place.exchange is not None
        weights, change = self.weights(place.block, inputs), torch.zeros_like(output)
        for tensors, rows, column in place.exchange.blocks:
            step = _said(module, tensors, inputs[rows]) - output[rows]
            if weights is not None:
                step = step * weights.expand(output.shape[0], -1, -1)[rows, :, column, None]
            change = change.index_add(0, rows, step)
        return output + change


def _said(module: nn.Module, tensors: Mapping[str, Tensor], inputs: Tensor) -> Tensor:
    """Return what a block says with other weights."""
    said = torch.func.functional_call(module, dict(tensors), (inputs,))
    return said[0] if isinstance(said, tuple) else said
