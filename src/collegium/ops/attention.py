"""The gradients of attention by plain batched products, a few rows at a time.

P = softmax(scale Q K^T + bias), O = P V; with G the gradient of O:

    dV = P^T G,   dP = G V^T,   dS = P (dP - rowsum(dP P)),   dQ = scale dS K,   dK = scale dS^T Q

These are the derivatives of softmax(QK^T)V written out, with P computed again rather than kept.
"""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

_SCORES = 2**18
"""About how many scores are held at once: as many as stay in a processor's cache in float32."""

Gradients = tuple[
    Float[Tensor, "batch head query size"], Float[Tensor, "batch own key size"], Float[Tensor, "batch own key out"]
]


def attention_gradients(
    gradient: Float[Tensor, "batch head query out"],
    query: Float[Tensor, "batch head query size"],
    key: Float[Tensor, "batch own key size"],
    value: Float[Tensor, "batch own key out"],
    mask: Bool[Tensor, "..."] | Float[Tensor, "..."] | None = None,
    *,
    scale: float,
    causal: bool = False,
) -> Gradients:
    """Return the gradients of query, key and value, given that of softmax(scale Q K^T + mask) V.

    mask:   what `scaled_dot_product_attention` takes: True where a key is seen, or scores to be added; it broadcasts
            to (batch, head, query, key). A query that sees no key says 0 and has no gradient.
    causal: query i sees the keys up to i.

    Each head of key and value serves heads/own heads of the query. Scores and probabilities are float32, and in the
    inputs' dtype only what is multiplied last.

    >>> one = torch.ones(1, 1, 1, 1)
    >>> [float(each) for each in attention_gradients(one, one, one, one, scale=1.0)]
    [0.0, 0.0, 1.0]
    """
    batch, heads, queries = query.shape[:3]
    own, keys = key.shape[1], key.shape[2]
    grouped = (batch, own, heads // own * queries, -1)
    query, gradient = query.reshape(grouped), gradient.reshape(grouped)
    bias, blind = _bias(mask, queries, keys, causal=causal, device=query.device)
    full = (batch, heads, queries, keys)
    bias = None if bias is None else bias.expand(full).unflatten(1, (own, -1))
    blind = None if blind is None else blind.expand(*full[:3], 1).unflatten(1, (own, -1))
    found = torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)
    some_rows = max(1, _SCORES // (heads * queries * keys))
    some_heads = max(1, _SCORES // (heads // own * queries * keys))
    for row in range(0, batch, some_rows):
        for head in range(0, own, some_heads):
            part = slice(row, row + some_rows), slice(head, head + some_heads)
            seen = [None if each is None else each[part] for each in (bias, blind)]
            inputs = gradient[part], query[part], key[part], value[part]
            for whole, each in zip(found, _part_gradients(*inputs, *seen, scale=scale), strict=True):
                whole[part] = each
    return found[0].view(batch, heads, queries, -1), found[1], found[2]


def _part_gradients(
    gradient: Tensor,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    blind: Tensor | None,
    *,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the gradients of a few heads; the queries of all heads that share keys stand below each other."""
    scores = (query.float() * scale) @ key.float().mT
    if bias is not None:
        scores.unflatten(2, bias.shape[2:4]).add_(bias)
    said = scores.softmax(-1)
    if blind is not None:
        said.unflatten(2, blind.shape[2:4]).masked_fill_(blind, 0.0)
    change = gradient.float() @ (value.float() * scale).mT
    change = torch.ops.aten._softmax_backward_data(change, said, -1, torch.float32)
    said, change = said.to(query.dtype), change.to(query.dtype)
    return change @ key, change.mT @ query, said.mT @ gradient


def _bias(
    mask: Tensor | None, queries: int, keys: int, *, causal: bool, device: torch.device
) -> tuple[Tensor | None, Tensor | None]:
    """Return what is added to the scores, in float32, and which queries see nothing; None where that is nothing."""
    if causal:
        mask = torch.ones(queries, keys, dtype=torch.bool, device=device).tril()
    if mask is None:
        return None, None
    if mask.dtype == torch.bool:
        mask = torch.zeros(mask.shape, device=device).masked_fill_(~mask, float("-inf"))
    blind = mask.isneginf().all(-1, keepdim=True)
    return mask.float(), blind if blind.any() else None
