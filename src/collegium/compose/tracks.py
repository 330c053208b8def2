"""One text of a pruned ensemble: its posterior, exact for those who are present, and who leaves or is called back."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from collegium.compose.routed import check_simplex, keep_scored, read_context
from collegium.core.protocols import PrefixRouter, RouterState, Tokenizer
from collegium.core.routing import Routing
from collegium.ops.posterior import mix_log_probs
from collegium.ops.pruning import BLOCK_TOKENS, BlockNats, leaving

ABSENT = -1e30
"""The log-likelihood of somebody who was not asked; finite, so that a router may decay it."""


class Track:
    """One text's posterior: who is present, with which weight, and what is needed to make it exact again.

    present: which experts are asked. weights: theirs for the next token, after top-k; 0 for who is missing.
    path:    the weights after each token read. scores: what the mixture said of the tokens behind the prompt.
    called:  whether the missing were called back and have not come yet.
    reads:   how many tokens were read, counted once for each expert that read them.
    """

    def __init__(
        self,
        router: PrefixRouter,
        prompt: Sequence[int],
        said: Float[Tensor, "seq expert"],
        *,
        epsilon: float,
        top_k: int | None,
        tokenizer: Tokenizer | None,
    ) -> None:
        """Let the router read the prompt as everybody said it."""
        self.router, self.epsilon, self.top_k = router, epsilon, top_k
        self.tokens: list[int] = []
        self.present: Bool[Tensor, " expert"] = torch.ones(len(router.experts), dtype=torch.bool)
        self.path: list[Float[Tensor, "n expert"]] = []
        self.scores: list[Float[Tensor, " n"]] = []
        self.called, self.reads = False, len(prompt) * len(router.experts)
        self._exact: tuple[int, RouterState] | None = None
        self._since: list[Float[Tensor, "n expert"]] = []
        self._nats, self._block = BlockNats(), []
        tokens = torch.tensor([list(prompt)])
        self.state = router.start(read_context(tokens, torch.tensor([len(prompt)]), tokenizer=tokenizer))
        self._follow(tokens[0], said)

    def read(self, tokens: Int[Tensor, " n"], said: Float[Tensor, "n expert"]) -> None:
        """Score tokens, none beyond the block, and let the router read them."""
        if not len(tokens):
            return
        before, self.reads = self.weights, self.reads + len(tokens) * int(self.present.sum())
        path = self._follow(tokens, said)
        mixed = mix_log_probs(torch.cat([before[None], path[:-1]]).log(), said)
        self._block += mixed.neg().tolist()
        if self._exact is not None:
            self._since.append(said)
        self.scores.append(mixed)

    def calls(self) -> bool:
        """Return whether the block that ends here calls the missing back; until they come."""
        block, self._block = self._block, []
        if len(block) == BLOCK_TOKENS:
            self._nats = self._nats.read(sum(block))
            self.called = self._nats.calls and not bool(self.present.all())
        return self.called

    def changing(self) -> bool:
        """Return whether somebody leaves or is called back at the end of the block that ends here."""
        return self.calls() or bool(self._leaving().any())

    def reenter(self, said: Float[Tensor, "gap expert"]) -> None:
        """Make the posterior exact: what the missing say of the last tokens, as many as they have not read."""
        assert self._exact is not None
        table = torch.cat(self._since)
        late = said > ABSENT / 2
        self.reads += int(late.sum())
        table[len(table) - len(said) :][late] = said[late]
        start, self.state = self._exact
        self.present, self._exact, self._since, self.called = torch.ones_like(self.present), None, [], False
        tokens, self.tokens = self.tokens[start:], self.tokens[:start]
        last = self.path.pop()
        path = self._follow(torch.tensor(tokens), table)
        self.path[-1:] = [torch.cat([last[:-1], path[-1:]])]

    def leave(self) -> Bool[Tensor, " expert"]:
        """Return who leaves here, having let them leave."""
        gone = self._leaving()
        if bool(gone.any()):
            self._exact = self._exact or (len(self.tokens), self.state)
            self.present = self.present & ~gone
            self.path[-1][-1] = self.weights
        return gone

    def _leaving(self) -> Bool[Tensor, " expert"]:
        return leaving(self._full, self.present, epsilon=self.epsilon)

    @property
    def weights(self) -> Float[Tensor, " expert"]:
        """The weights of the next token."""
        return self._weights(self._full[None])[0]

    def _follow(self, tokens: Int[Tensor, " n"], said: Float[Tensor, "n expert"]) -> Float[Tensor, "n expert"]:
        routing, self.state = self.router.step(self.state, tokens[None], said[None])
        check_simplex(routing)
        dense = routing.dense()[0]
        self._full: Float[Tensor, " expert"] = dense[-1]
        self.tokens += tokens.tolist()
        self.path.append(self._weights(dense))
        return self.path[-1]

    def _weights(self, dense: Float[Tensor, "n expert"]) -> Float[Tensor, "n expert"]:
        left = dense * self.present
        shares = left / left.sum(-1, keepdim=True)
        return Routing(self.router.experts, shares[None]).top_k(self.top_k).dense()[0]


def gather(
    tracks: Sequence[Track],
    shape: Sequence[int],
    *,
    lengths: Int[Tensor, " batch"],
    context: Int[Tensor, " batch"],
) -> tuple[Float[Tensor, "batch seq"], Routing]:
    """Return each token's log-probability, 0 in the context and at padding, and the weights after each token."""
    experts = tracks[0].router.experts
    scores, weights = torch.zeros(*shape), torch.zeros(*shape, len(experts))
    for row, (track, first, last) in enumerate(zip(tracks, context.tolist(), lengths.tolist(), strict=True)):
        if last > first:
            scores[row, first:last] = torch.cat(track.scores)
        weights[row, :last] = torch.cat(track.path)
        weights[row, last:] = track.weights
    return keep_scored(scores, lengths=lengths, context=context), Routing(experts, weights)
