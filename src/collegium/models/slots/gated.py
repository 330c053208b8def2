"""Gates in slots: those of places that read one input are asked at once, and share their first products."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collegium.core.protocols import Gate
from collegium.models.gates import TaskGate
from collegium.models.slots.stacks import LowRankStack, Place
from collegium.ops.grouped import Change, Firsts, cheapest, dense

Trace = dict[str, tuple[Tensor, Tensor | None]]
"""Module path -> what its gate said: weights, and which experts they are for (None = all, in order)."""


@dataclass(eq=False)
class OpenTrace:
    """What gates say while they are trained, with its gradient, so that a loss can read it.

    said:          as in a trace. probabilities: module path -> the softmax over all experts, of gates that have one.
    read:          which tokens of each row are no padding, None = all of them; a loss leaves the others out.
    """

    said: Trace = field(default_factory=dict)
    probabilities: dict[str, Float[Tensor, "row seq expert"]] = field(default_factory=dict)
    read: Bool[Tensor, "row seq"] | None = None


@runtime_checkable
class SoftGate(Gate, Protocol):
    """A gate that has a probability for every expert, also for those that it does not choose."""

    def probabilities(self, hidden: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens expert"]:
        """Return them."""
        ...


def note(
    trace: Trace | OpenTrace, path: str, said: tuple[Tensor, Tensor | None], *, gate: Gate, inputs: Tensor
) -> None:
    """Write down what a gate said of its inputs at a place."""
    if isinstance(trace, OpenTrace):
        trace.said[path] = said
        if isinstance(gate, SoftGate):
            trace.probabilities[path] = gate.probabilities(inputs)
    else:
        trace[path] = (said[0].detach(), said[1])


@runtime_checkable
class JoinableGate(Gate, Protocol):
    """A gate that can be asked together with others of the same input; a gate that cannot is asked alone."""

    def joined(self, others: Sequence[Gate]) -> Gate | None:
        """Return a gate that says of tokens on one axis what this one and the others say, places on an axis before it.

        None where that cannot be, for others of another kind.
        """
        ...


@dataclass(frozen=True, eq=False)
class GatedFamily:
    """Places that read one input, their gates as one, and the thin matrices of the experts that these choose among.

    b: `[expert, rank, output]` of each place, whose outputs may differ. A place by itself keeps its gate as it is.
    """

    paths: tuple[str, ...]
    gate: Gate
    first: Firsts
    b: tuple[Tensor, ...]

    def hear(self, inputs: Float[Tensor, "row seq input"], trace: Trace | OpenTrace | None) -> Change:
        """Return what the gates' experts change at each place, of which the first products are made."""
        places, experts, rank, width = self.first.a.shape
        x = inputs.reshape(-1, width)
        weights, index = self.gate(inputs if places == 1 else x)
        if trace is not None:
            for path, said in zip(self.paths, _by_place(places, inputs, weights, index), strict=True):
                note(trace, path, said, gate=self.gate, inputs=inputs)
        shape = (places, x.shape[0], weights.shape[-1])
        weights = weights.to(x.dtype).reshape(shape)
        if index is None:
            return dense(x, self.first, weights, None)
        way = cheapest(
            tokens=x.shape[0],
            chosen=shape[2],
            experts=experts,
            rank=rank,
            inputs=width,
            outputs=self.b[0].shape[2],
            number_bytes=x.element_size(),
        )
        return way(x, self.first, weights, index.reshape(shape))


def _by_place(places: int, inputs: Tensor, weights: Tensor, index: Tensor | None) -> list[tuple[Tensor, Tensor | None]]:
    """Return what is said at each place, by row and position."""
    if places == 1:
        return [(weights, index)]
    shape = (places, *inputs.shape[:-1], weights.shape[-1])
    said = weights.view(shape).unbind(0)
    chosen = [None] * places if index is None else index.view(shape).unbind(0)
    return list(zip(said, chosen, strict=True))


def gated_families(
    gates: Mapping[str, Gate], places: Mapping[str, Place], families: Mapping[str, tuple[str, ...]]
) -> dict[str, tuple[GatedFamily, int]]:
    """Return path -> its family and its place in it, for each place with a gate and experts of one padded rank."""
    found: dict[str, tuple[GatedFamily, int]] = {}
    stacks = {
        path: place.low_rank[0]
        for path, place in places.items()
        if _joins(gates.get(path)) and place.low_rank and place.low_rank[0].rank is not None
    }
    for path, stack in stacks.items():
        if path not in found:
            family = [each for each in families.get(path, (path,)) if each in stacks and each not in found]
            alike = [each for each in family if stacks[each].rank == stack.rank]
            joint = _joined([gates[each] for each in alike])
            made = _family((path,), gates[path], stacks) if joint is None else _family(alike, joint, stacks)
            found |= {each: (made, number) for number, each in enumerate(made.paths)}
    return found


def _joins(gate: Gate | None) -> bool:
    """Return whether there is a gate that may be asked with others; one that is told something is asked by its row."""
    return gate is not None and not isinstance(gate, TaskGate)


def _joined(gates: Sequence[Gate]) -> Gate | None:
    """Return the gates as one, None where they cannot be."""
    first, *others = gates
    return first.joined(others) if others and isinstance(first, JoinableGate) else None


def _family(paths: Sequence[str], gate: Gate, stacks: Mapping[str, LowRankStack]) -> GatedFamily:
    """Return a family; the thin matrices of one place are views, those of several are copied next to each other."""
    first = [_by_expert(stacks[path].a[0].T, stacks[path]) for path in paths]
    second = tuple(_by_expert(stacks[path].b[0], stacks[path]) for path in paths)
    a = first[0].unsqueeze(0) if len(first) == 1 else torch.stack(first)
    return GatedFamily(tuple(paths), gate, Firsts.of(a), second)


def _by_expert(matrix: Float[Tensor, "column size"], stack: LowRankStack) -> Float[Tensor, "expert rank size"]:
    assert stack.rank is not None
    return matrix.view(-1, stack.rank, matrix.shape[1])
