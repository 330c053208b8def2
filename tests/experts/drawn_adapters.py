"""Adapters drawn at random, and their changes multiplied out by the definition."""

import torch

from collegium.experts.algebra import (
    compress,
    delta_of_adapter,
)
from collegium.models import (
    Ia3Weights,
    LoraWeights,
)

OUTPUTS, INPUTS = 7, 5
TOKENS = torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(0))


def low_rank(seed, *, paths=("q", "v"), rank=2, scale=0.5, outputs=OUTPUTS, inputs=INPUTS):
    draw = torch.Generator().manual_seed(seed)
    return {
        path: LoraWeights(torch.randn(rank, inputs, generator=draw), torch.randn(outputs, rank, generator=draw), scale)
        for path in paths
    }


def rescaling(seed, *, paths=("k", "down"), size=6):
    draw = torch.Generator().manual_seed(seed)
    return {
        path: Ia3Weights(1 + torch.randn(size, generator=draw), "input" if path == "down" else "output")
        for path in paths
    }


MAKERS = {"lora": low_rank, "ia3": rescaling}


def dense(adapter):
    """The change of every layer, multiplied out by the definition."""
    return {
        path: part.scale * part.b @ part.a if isinstance(part, LoraWeights) else part.factors - 1
        for path, part in adapter.items()
    }


def dense_sum(adapters, weights):
    result = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for path, change in dense(adapter).items():
            result[path] = result.get(path, 0) + weight * change
    return result


def assert_same(found, wanted, tolerance=1e-5):
    assert found.keys() == wanted.keys()
    for path, change in wanted.items():
        torch.testing.assert_close(found[path], change, atol=tolerance, rtol=tolerance)


def deltas(*adapters):
    return [delta_of_adapter(adapter) for adapter in adapters]


def adapter_of(delta, rank=None):
    return compress(delta, rank).adapter
