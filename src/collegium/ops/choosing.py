"""From logits to weights: the largest few, normalised."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def top_softmax(
    logits: Float[Tensor, "*batch expert"], k: int | None
) -> tuple[Float[Tensor, "*batch k"], Int[Tensor, "*batch k"] | None]:
    """Return the softmax over the k largest logits, and whose they are; over all of them, in order, when k is None.

    A logit of minus infinity has weight 0; there must be one that is finite.

    >>> weights, index = top_softmax(torch.tensor([1.0, float("-inf"), 1.0]), 2)
    >>> weights, index
    (tensor([0.5000, 0.5000]), tensor([0, 2]))
    """
    if k is None or k >= logits.shape[-1]:
        return logits.softmax(dim=-1), None
    kept, index = logits.topk(k, dim=-1, sorted=False)
    return kept.softmax(dim=-1), index


def standardised(values: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
    """Return the values less their mean, divided by their standard deviation, along the last axis; 0 where all are one.

    >>> standardised(torch.tensor([[1.0, 3.0], [2.0, 2.0]]))
    tensor([[-1.,  1.],
            [ 0.,  0.]])
    """
    centred = values - values.mean(dim=-1, keepdim=True)
    spread = centred.square().mean(dim=-1, keepdim=True).sqrt()
    return torch.where(spread > 0, centred / spread.clamp(min=torch.finfo(values.dtype).tiny), 0.0)
