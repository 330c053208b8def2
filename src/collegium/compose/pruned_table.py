"""A pruned ensemble from a table of what every expert says: the same numbers as by its rows, and how many those are."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.routed import row_context
from collegium.compose.tracks import ABSENT, Track, gather
from collegium.core.protocols import PrefixRouter, Tokenizer
from collegium.core.routing import Routing
from collegium.ops.pruning import BLOCK_TOKENS


@dataclass(frozen=True, eq=False)
class PrunedTable:
    """What a pruned ensemble makes of texts.

    scores: each token's log-probability, 0 in the context and at padding. routing: the weights after each token.
    rows:   how many experts read each text, on average over its tokens; one that comes back reads what it has missed.
    """

    scores: Float[Tensor, "batch seq"]
    routing: Routing
    rows: Float[Tensor, " batch"]


def prune_table(
    router: PrefixRouter,
    tokens: Int[Tensor, "batch seq"],
    log_likelihoods: Float[Tensor, "batch seq expert"],
    *,
    lengths: Int[Tensor, " batch"],
    context: int | Int[Tensor, " batch"] = 1,
    epsilon: float,
    top_k: int | None = None,
    tokenizer: Tokenizer | None = None,
) -> PrunedTable:
    """Return what the ensemble of these experts says when those under a posterior of epsilon leave (see `Ensemble`).

    log_likelihoods: of every expert and token, in the order of the router's experts.

    >>> from collegium.routers import posterior
    >>> router, tokens = posterior().bind(("law", "code")), torch.zeros(1, 32, dtype=torch.long)
    >>> said = torch.tensor([-1.0, -2.0]).expand(1, 32, 2)
    >>> prune_table(router, tokens, said, lengths=torch.tensor([32]), epsilon=1e-3).rows
    tensor([1.5000])
    """
    read, tracks = row_context(context, lengths), []
    many, firsts, every = lengths.tolist(), read.tolist(), log_likelihoods.float().cpu()
    for text, said, length, first in zip(tokens.tolist(), every, many, firsts, strict=True):
        track = Track(router, text[:first], said[:first], epsilon=epsilon, top_k=top_k, tokenizer=tokenizer)
        _read_on(track, text[:length], said)
        tracks.append(track)
    scores, routing = gather(tracks, tokens.shape, lengths=lengths, context=read)
    rows = torch.tensor([track.reads / length for track, length in zip(tracks, many, strict=True)])
    return PrunedTable(scores, routing, rows)


def _read_on(track: Track, text: Sequence[int], said: Float[Tensor, "seq expert"]) -> None:
    """Read a text to its end, letting experts leave and come back at the ends of blocks."""
    missed = torch.zeros(said.shape, dtype=torch.bool)
    while len(track.tokens) < len(text):
        at = len(track.tokens)
        if at % BLOCK_TOKENS == 0:
            if track.calls():
                first = int(missed.any(-1).nonzero()[0])
                track.reenter(said[first:at].masked_fill(~missed[first:at], ABSENT))
                missed[:at] = False
            track.leave()
        end = min((at // BLOCK_TOKENS + 1) * BLOCK_TOKENS, len(text))
        missed[at:end] = ~track.present
        track.read(torch.tensor(text[at:end]), said[at:end].masked_fill(~track.present, ABSENT))
