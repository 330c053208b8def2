"""One vector for a text, out of a hidden state for each of its tokens."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def real_tokens(tokens: Int[Tensor, "row seq"], lengths: Int[Tensor, " row"]) -> Bool[Tensor, "row seq"]:
    """Return which positions are no padding of right-padded rows.

    >>> real_tokens(torch.zeros(1, 3, dtype=torch.long), torch.tensor([2]))
    tensor([[ True,  True, False]])
    """
    return torch.arange(tokens.shape[1], device=tokens.device) < lengths.to(tokens.device)[:, None]


def last_tokens(
    tokens: Int[Tensor, "row seq"], lengths: Int[Tensor, " row"], pad_token: int | None
) -> Int[Tensor, " row"]:
    """Return the place of each row's rightmost token that is not the pad token; 0 in a row of nothing else.

    So does transformers find the token that its sequence classification models read, and a text's own final pad token
    (which for many bases is the end of text) is passed over likewise. Padding counts as pad tokens whatever stands
    there; without a pad token the last token is taken.

    >>> last_tokens(torch.tensor([[5, 6, 2], [5, 6, 7]]), torch.tensor([3, 2]), 2)
    tensor([1, 1])
    """
    read = real_tokens(tokens, lengths)
    if pad_token is not None:
        read = read & (tokens != pad_token)
    return torch.where(read, torch.arange(tokens.shape[1], device=tokens.device), 0).amax(-1)


def taken_at(hidden: Float[Tensor, "row seq hidden"], places: Int[Tensor, " row"]) -> Float[Tensor, "row hidden"]:
    """Return each row's state at its place."""
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), places.to(hidden.device)]


def mean_of(hidden: Float[Tensor, "row seq hidden"], read: Bool[Tensor, "row seq"]) -> Float[Tensor, "row hidden"]:
    """Return the mean state of the tokens read, in float32; zeros where none is.

    >>> mean_of(torch.tensor([[[1.0], [3.0], [100.0]]]), torch.tensor([[True, True, False]]))
    tensor([[2.]])
    """
    read = read.to(hidden.device)
    total = hidden.float().masked_fill(~read[..., None], 0.0).sum(1)
    return total / read.sum(1, keepdim=True).clamp(min=1)
