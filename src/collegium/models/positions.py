"""Where tokens stand: inside their documents, and behind a context."""

import torch
from jaxtyping import Bool, Int
from torch import Tensor


def segment_positions(segments: Int[Tensor, "batch seq"]) -> Int[Tensor, "batch seq"]:
    """Return each token's position inside its own document.

    >>> segment_positions(torch.tensor([[0, 0, 0, 1, 1, -1]]))
    tensor([[0, 1, 2, 0, 1, 0]])
    """
    place = torch.arange(segments.shape[1], device=segments.device).expand(segments.shape)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return place - torch.where(starts, place, 0).cummax(-1).values


def after_context(tokens: Int[Tensor, "batch seq"], context: int | Int[Tensor, " batch"]) -> Bool[Tensor, "batch seq"]:
    """Return which positions lie behind the context, one context for all rows or one per row.

    >>> after_context(torch.zeros(2, 3, dtype=torch.long), torch.tensor([1, 2]))
    tensor([[False,  True,  True],
            [False, False,  True]])
    """
    place = torch.arange(tokens.shape[1], device=tokens.device)
    limit = context.to(tokens.device)[:, None] if isinstance(context, Tensor) else context
    return (place >= limit).expand(tokens.shape)
