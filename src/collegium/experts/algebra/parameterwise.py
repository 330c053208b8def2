"""Arithmetic on A and B by themselves, as the paper on composing PEFT modules does it; claims C1 to C3 are about it.

The algebra of Collegium is on changes (`delta.py`). These functions are here to say how the two differ.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

import torch

from collegium.core.errors import ConfigError, IncompatibleExpert
from collegium.experts.algebra.delta import check_finite
from collegium.models import LoraWeights

LowRank = Mapping[str, LoraWeights]
"""Module path -> the low-rank change there."""


def parameterwise_sum(adapters: Sequence[LowRank], weights: Sequence[float]) -> dict[str, LoraWeights]:
    """Return the adapter with A = sum_e w_e A_e and B = sum_e w_e B_e  [zhang2023composing].

    With weights a and 1 - a it misses the sum of changes by -a (1 - a) (B1 - B2)(A1 - A2): nothing where a factor is
    shared (claim C3).

    Raises IncompatibleExpert unless all change the same layers with the same ranks and scales.

    >>> one = LoraWeights(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    >>> two = LoraWeights(torch.tensor([[3.0]]), torch.tensor([[4.0]]))
    >>> parameterwise_sum([{"q": one}, {"q": two}], [0.5, 0.5])["q"].delta()
    tensor([[6.]])
    """
    check_finite(*weights)
    if not adapters or len(adapters) != len(weights):
        raise ConfigError(f"a sum has one weight per expert; got {len(weights)} for {len(adapters)}.")
    kinds = [{path: (each.rank, each.shape, each.scale) for path, each in adapter.items()} for adapter in adapters]
    if any(kind != kinds[0] for kind in kinds):
        raise IncompatibleExpert(
            "A and B are added by themselves only where all experts have the same layers, ranks and scales; add their "
            "changes instead."
        )
    return {
        path: LoraWeights(
            torch.stack([weight * each[path].a for weight, each in zip(weights, adapters, strict=True)]).sum(0),
            torch.stack([weight * each[path].b for weight, each in zip(weights, adapters, strict=True)]).sum(0),
            first.scale,
        )
        for path, first in adapters[0].items()
    }


def negated_factor(adapter: LowRank, *, factor: Literal["a", "b"] = "b", scale: float = 1.0) -> dict[str, LoraWeights]:
    """Return the adapter with one factor times -scale: the change times -scale  [zhang2023composing].

    >>> one = LoraWeights(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    >>> negated_factor({"q": one})["q"].delta()
    tensor([[-2.]])
    """
    check_finite(scale)
    if factor == "a":
        return {path: LoraWeights(-scale * each.a, each.b, each.scale) for path, each in adapter.items()}
    return {path: LoraWeights(each.a, -scale * each.b, each.scale) for path, each in adapter.items()}


def negated_factors(adapter: LowRank) -> dict[str, LoraWeights]:
    """Return the adapter with both factors negated, which changes nothing (claim C2).

    >>> one = LoraWeights(torch.tensor([[1.0]]), torch.tensor([[2.0]]))
    >>> negated_factors({"q": one})["q"].delta()
    tensor([[2.]])
    """
    return negated_factor(negated_factor(adapter, factor="a"), factor="b")
