"""How a label is told: a head for each task, whose outputs stand side by side as columns.

An encoder's head is learnt. A decoder's is given: the rows of its output layer for a label's words, so that an output
is what the base itself says of them. A choice is right if the label's name is: two tasks may share one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.models import Base, HeadWeights
from collegium.rewards.fit import fresh_head


@dataclass(frozen=True)
class Columns:
    """The labels that can be told, those of one task behind those of another.

    tasks: their numbers, in the order in which they were learnt. labels: of each.
    """

    tasks: tuple[int, ...]
    labels: tuple[tuple[str, ...], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The label of each column."""
        return tuple(label for own in self.labels for label in own)

    @property
    def owners(self) -> Int[Tensor, " column"]:
        """The number of each column's task."""
        return torch.tensor([task for task, own in zip(self.tasks, self.labels, strict=True) for _ in own])

    def right(self, labels: Sequence[str]) -> Bool[Tensor, "row column"]:
        """Return which columns say what each row is labelled."""
        names = self.names
        return torch.tensor([[name == label for name in names] for label in labels], dtype=torch.bool).view(
            len(labels), len(names)
        )

    def own(self, tasks: Int[Tensor, " row"]) -> Bool[Tensor, "row column"]:
        """Return which columns belong to each row's task."""
        return self.owners == tasks[:, None]


def choice_nats(
    outputs: Float[Tensor, "row column"], right: Bool[Tensor, "row column"], allowed: Bool[Tensor, "row column"]
) -> Float[Tensor, " row"]:
    """Return minus the log-probability that a softmax over the allowed columns gives to the right ones of them.

    >>> told = torch.zeros(1, 4)
    >>> choice_nats(told, torch.tensor([[True, False, True, False]]), torch.ones(1, 4, dtype=torch.bool)).exp()
    tensor([2.])
    """
    floor = torch.finfo(outputs.dtype).min
    among = outputs.masked_fill(~allowed, floor).logsumexp(-1)
    return among - outputs.masked_fill(~(allowed & right), floor).logsumexp(-1)


def choice_right(
    outputs: Float[Tensor, "row column"], right: Bool[Tensor, "row column"], allowed: Bool[Tensor, "row column"]
) -> Bool[Tensor, " row"]:
    """Return whether the largest of the allowed columns is a right one.

    >>> told, right = torch.tensor([[1.0, 3.0, 2.0]]), torch.tensor([[False, False, True]])
    >>> choice_right(told, right, torch.tensor([[True, False, True]]))
    tensor([True])
    """
    best = outputs.masked_fill(~allowed, float("-inf")).argmax(-1)
    return right[torch.arange(len(best)), best]


def told(states: Float[Tensor, "row hidden"], heads: Sequence[HeadWeights]) -> Float[Tensor, "row column"]:
    """Return what heads say of states, side by side."""
    return torch.cat([head(states) for head in heads], dim=-1)


def new_head(base: Base, labels: Sequence[str], *, seed: int) -> HeadWeights:
    """Return a task's head: ready to be trained on an encoder, given on a base that speaks."""
    if base.speaks:
        return HeadWeights(word_rows(base, labels))
    return fresh_head(base, len(labels), seed=seed)


def word_rows(base: Base, labels: Sequence[str]) -> Float[Tensor, "label hidden"]:
    """Return the rows of the base's output layer for labels' words, the mean where a label has several tokens.

    Raises DataError for labels that this mean cannot tell apart.
    """
    base.require_output()
    weight = base.model.get_output_embeddings().weight
    tokens = [base.tokenizer.encode(f" {label}", add_special_tokens=False) for label in labels]
    bags = [tuple(sorted(each)) for each in tokens]
    for number, bag in enumerate(bags):
        if not bag or bag in bags[:number]:
            other = labels[bags.index(bag)]
            raise DataError(
                f"labels {other!r} and {labels[number]!r} are the same words to {base.name}; give them names that "
                "differ in more than order."
            )
    return torch.stack([weight[torch.tensor(each, device=weight.device)].float().mean(0) for each in tokens]).detach()


def trained_heads(heads: Mapping[str, HeadWeights], names: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of these tasks' heads that are to be learnt, by a name each; none of heads that are given."""
    return {
        f"head {name}.{key}": tensor
        for name in names
        for key, tensor in heads[name].tensors.items()
        if tensor.requires_grad
    }
