"""Sparse mixtures of feed-forward blocks: each expert computes the tokens that a gate sends to it, and no others."""

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

Speak = Callable[[Float[Tensor, "one token hidden"]], Float[Tensor, "one token hidden"]]
"""An expert's block, given tokens on one axis."""


def routed_change(
    inputs: Float[Tensor, "token hidden"],
    output: Float[Tensor, "token hidden"],
    said: tuple[Float[Tensor, "token k"], Int[Tensor, "token k"] | None],
    experts: Sequence[tuple[int, Speak, Bool[Tensor, " token"] | None]],
) -> Float[Tensor, "token hidden"]:
    """Return sum_e w_e (f_e(x) - y) over each token's own experts.

    said: what the gate says; an index of None stands for all experts, in order.
    experts: (place among the gate's, block, tokens that it may be asked for, None = any) each.

    An expert is asked even where it has no token, so that its weights have a gradient, of zero.
    """
    change = torch.zeros_like(output)
    for place, speak, allowed in experts:
        tokens, weights = _sent(*said, place, allowed)
        step = speak(inputs[tokens].unsqueeze(0)).squeeze(0) - output[tokens]
        change = change.index_add(0, tokens, step * weights[:, None].to(step.dtype))
    return change


def _sent(weights: Tensor, index: Tensor | None, place: int, allowed: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the tokens that are sent to an expert, and its weight at each."""
    if index is None:
        share, sent = weights[:, place], torch.ones_like(weights[:, place], dtype=torch.bool)
    else:
        hit = index == place
        share, sent = (weights * hit).sum(-1), hit.any(-1)
    tokens = (sent if allowed is None else sent & allowed).nonzero().flatten()
    return tokens, share[tokens]
