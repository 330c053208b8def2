"""Ensemble: next-token probabilities mixed by a router, p(x_t | x_<t) = sum_j w_j(x_<t) p_j(x_t | x_<t)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.asking import Asked
from collegium.compose.choice import Choice
from collegium.compose.pruned import PrunedDecoding, Pruning, check_epsilon
from collegium.compose.routed import (
    check_parts,
    check_simplex,
    hide_padding,
    keep_scored,
    last_weights,
    read_context,
    right_padded,
    route,
    row_context,
    row_lengths,
)
from collegium.compose.voices import SlotVoices, Voices, VoicesDecoding, row_plan
from collegium.core.errors import RoutingError
from collegium.core.protocols import PrefixRouter, RouterState, Tokenizer, context_limit
from collegium.core.routing import Routing
from collegium.core.state import select_rows
from collegium.ops.posterior import mix_log_probs, posterior


def combine(
    routing: Routing, table: Float[Tensor, "batch seq expert"], *, top_k: int | None = None
) -> Float[Tensor, "batch seq"]:
    """Return the ensemble's log-probability of each token from its experts' (0 at position 0).

    Token i is predicted with the weights after token i - 1. `table` is in the order of `routing.experts`.
    """
    check_simplex(routing)
    log_weights = routing.top_k(top_k).log_weights().to(table.device)
    before = log_weights if log_weights.shape[1] == 1 else log_weights[:, :-1]
    mixed = mix_log_probs(before, table[:, 1:].float())
    return torch.cat([mixed.new_zeros(len(mixed), 1), mixed], dim=1)


@dataclass(frozen=True)
class _Rows:
    """Which voices were asked and the log-weight of each of their rows."""

    choice: Choice
    log_weights: Float[Tensor, "batch seq row"]


class Ensemble:
    """A language model: voices, and a router that weighs their probabilities.

    Experts that a coarse router leaves silent are not computed: a text costs one row per expert with weight.
    A router that needs likelihoods has one row per expert it knows; pruned, one per expert whose posterior is not
    under `prune`, looked at every 16 tokens.
    """

    def __init__(self, voices: Voices, router: PrefixRouter, *, top_k: int | None = None, prune: float = 0.0) -> None:
        """Keep the parts.

        Raises RoutingError when the router knows an expert that is no voice, top_k is less than 1, or prune is not in
        [0, 0.5), or given for a router without likelihoods or for whole models.
        """
        check_parts(router, voices.names, top_k)
        check_epsilon(prune)
        self.voices, self.router, self.top_k, self.prune = voices, router, top_k, prune
        self._pruning = None if prune == 0 else _pruning(voices, router, top_k=top_k, prune=prune)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The voices' tokenizer."""
        return self.voices.tokenizer

    @property
    def vocab_size(self) -> int:
        """The voices' vocabulary."""
        return self.voices.vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that all voices read."""
        return context_limit(self.voices)

    @property
    def experts(self) -> tuple[str, ...]:
        """The names its routing is in order of."""
        return self.router.experts

    @torch.no_grad()
    def routing(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Routing:
        """Return the weights after each token, in the order of `experts`; after top-k."""
        many = row_lengths(tokens, lengths)
        read, table = row_context(context, many), None
        if self._pruning is not None:
            return self._pruning.follow(tokens, lengths=many, context=read)[1]
        if self.router.needs_likelihoods:
            table = self.voices.score(tokens, Choice(self.experts), lengths=many, context=read)
        return self._route(tokens, many, read, table)

    def _route(
        self,
        tokens: Int[Tensor, "batch seq"],
        lengths: Int[Tensor, " batch"],
        context: Int[Tensor, " batch"],
        table: Float[Tensor, "batch seq expert"] | None,
    ) -> Routing:
        routing = route(
            self.router, tokens, lengths=lengths, context=context, tokenizer=self.tokenizer, log_likelihoods=table
        )
        check_simplex(routing)
        return routing.top_k(self.top_k)

    @torch.no_grad()
    def score(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq"]:
        """Return each token's log-probability given those before it; 0 for i < context and for padding."""
        many = row_lengths(tokens, lengths)
        read = row_context(context, many)
        if self._pruning is not None:
            return self._pruning.follow(tokens, lengths=many, context=read)[0]
        if self.router.needs_likelihoods:
            table = self.voices.score(tokens, Choice(self.experts), lengths=many, context=read)
            mixed = combine(self._route(tokens, many, read, table), table)
        else:
            rows = live_rows(self._route(tokens, many, read, None), len(tokens))
            table = self.voices.score(tokens, rows.choice, lengths=many, context=read)
            before = rows.log_weights if rows.log_weights.shape[1] == 1 else rows.log_weights[:, :-1]
            mixed = mix_log_probs(before.to(table.device), table[:, 1:].float())
            mixed = torch.cat([mixed.new_zeros(len(mixed), 1), mixed], dim=1)
        return keep_scored(mixed, lengths=many, context=read)

    @torch.no_grad()
    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the mixture's whole distribution at every position: exact, and as large as it sounds."""
        many = row_lengths(tokens, lengths)
        read = row_context(context, many)
        if self._pruning is not None:
            every = self.voices.logprobs(tokens, Choice(self.experts), lengths=many, context=read)
            log_weights = self._pruning.follow(tokens, lengths=many, context=read)[1].log_weights()
        elif self.router.needs_likelihoods:
            table = self.voices.score(tokens, Choice(self.experts), lengths=many, context=read)
            every = self.voices.logprobs(tokens, Choice(self.experts), lengths=many, context=read)
            log_weights = self._route(tokens, many, read, table).log_weights()
        else:
            rows = live_rows(self._route(tokens, many, read, None), len(tokens))
            every = self.voices.logprobs(tokens, rows.choice, lengths=many, context=read)
            log_weights = rows.log_weights
        mixed = torch.full_like(every[0], float("-inf"))
        for row in range(len(every)):
            mixed = torch.logaddexp(mixed, every[row] + log_weights[..., row, None].to(every.device))
        return mixed

    @torch.no_grad()
    def open(self, prompts: Sequence[Sequence[int]]) -> "EnsembleDecoding | PrunedDecoding":
        """Return a decoding of the prompts; each prompt is the context its router reads."""
        if self._pruning is not None:
            return self._pruning.open(prompts)
        chosen = self._choose(prompts)
        return self._begin(chosen, self.voices.open(prompts, chosen.choice))

    @torch.no_grad()
    def ask(self, prompts: Sequence[Sequence[int]]) -> Asked:
        """Return the rows that read the prompts; raises RoutingError for voices that are no rows of one base."""
        voices = self.voices
        if self._pruning is not None:
            return self._pruning.ask(prompts)
        if not isinstance(voices, SlotVoices):
            raise RoutingError(
                f"only adapters on one base run as its rows; {type(voices).__name__} has voices with weights of "
                "their own. Open the model by itself."
            )
        chosen = self._choose(prompts)
        plan = row_plan(chosen.choice, voices.keys)
        return Asked(voices.base, plan, lambda rows: self._begin(chosen, voices.begin(rows, chosen.choice)))

    def _choose(self, prompts: Sequence[Sequence[int]]) -> "_Chosen":
        tokens, lengths = right_padded(prompts)
        state = self.router.start(read_context(tokens, lengths, tokenizer=self.tokenizer))
        shown = hide_padding(tokens, lengths)
        if self.router.needs_likelihoods:
            return _Chosen(Choice(self.experts), state, None, shown, lengths)
        routing, state = self.router.step(state, shown, None)
        coarse = routing.weights.shape[1] == 1
        choice = live_rows(routing.top_k(self.top_k), len(prompts)).choice if coarse else Choice(self.experts)
        return _Chosen(choice, state, routing, shown, lengths)

    def _begin(self, chosen: "_Chosen", decoding: VoicesDecoding) -> "EnsembleDecoding":
        routing, state = chosen.routing, chosen.state
        if routing is None:
            routing, state = self.router.step(state, chosen.shown, decoding.prompt_scores().float().cpu())
        check_simplex(routing)
        weights = last_weights(routing, chosen.lengths)
        return EnsembleDecoding(self, decoding, chosen.choice, state, Routing(self.experts, weights))


def _pruning(voices: Voices, router: PrefixRouter, *, top_k: int | None, prune: float) -> Pruning:
    if not isinstance(voices, SlotVoices):
        raise RoutingError(
            f"prune lets rows of one base leave; {type(voices).__name__} has voices with weights of their own. "
            "Leave prune out, or choose the experts that are adapters."
        )
    return Pruning(voices.base, row_plan(Choice(router.experts), voices.keys), router, prune, top_k)


@dataclass(frozen=True, eq=False)
class _Chosen:
    """Whose rows read the prompts, and what the router has made of them; no routing where it waits for likelihoods."""

    choice: Choice
    state: RouterState
    routing: Routing | None
    shown: Int[Tensor, "batch seq"]
    lengths: Int[Tensor, " batch"]


def live_rows(routing: Routing, batch: int) -> _Rows:
    """Return the voices with any weight, and their rows' log-weights.

    Weights that hold for a whole text choose their voices per text; weights that change along it choose them once
    for the batch.
    """
    check_simplex(routing)
    dense = routing.dense().expand(batch, -1, -1)
    live = (dense > 0).any(1)
    everywhere = live.any(0)
    names = tuple(name for name, on in zip(routing.experts, everywhere.tolist(), strict=True) if on)
    dense = dense[..., everywhere]
    most = int(live.sum(-1).max())
    if dense.shape[1] > 1 or most == len(names):
        return _Rows(Choice(names), dense.log())
    weights, index = dense[:, 0].sort(dim=-1, descending=True, stable=True)
    return _Rows(Choice(names, index[:, :most]), weights[:, None, :most].log())


class EnsembleDecoding:
    """An ensemble's texts being continued; the posterior moves with every token."""

    def __init__(
        self, model: Ensemble, rows: VoicesDecoding, choice: Choice, state: RouterState, routing: Routing
    ) -> None:
        """Keep the rows, which of the router's experts they are, and the router's state."""
        self.model, self.rows, self.choice, self.state = model, rows, choice, state
        self.routing: Routing | None = routing.top_k(model.top_k)

    def _log_weights(self) -> Float[Tensor, "batch row"]:
        assert self.routing is not None
        dense = self.routing.dense()[:, 0]
        columns = torch.tensor([self.model.experts.index(name) for name in self.choice.names])
        chosen = dense[:, columns]
        if self.choice.index is not None:
            chosen = chosen.gather(-1, self.choice.index)
        return chosen.log()

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the mixture's log-probabilities of the next token."""
        every = self.rows.logprobs()
        return torch.logsumexp(every + self._log_weights()[..., None].to(every.device), dim=1)

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return each expert's share in these next tokens: weight times probability, normalised."""
        said = self._said(tokens).cpu()
        share = posterior(self._log_weights(), said).exp()
        columns = torch.tensor([self.model.experts.index(name) for name in self.choice.names])
        where = columns.expand(len(share), -1) if self.choice.index is None else columns[self.choice.index]
        return share.new_zeros(len(share), len(self.model.experts)).scatter(-1, where, share)

    def _said(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch row"]:
        every = self.rows.logprobs()
        index = tokens.to(every.device)[:, None, None].expand(-1, every.shape[1], 1)
        return every.gather(-1, index)[..., 0].float()

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text and let the router read it."""
        seen = self._said(tokens).cpu()[:, None] if self.model.router.needs_likelihoods else None
        self.rows.step(tokens)
        routing, self.state = self.model.router.step(self.state, tokens.cpu()[:, None], seen)
        weights = routing.dense()[:, -1:].expand(len(tokens), -1, -1)
        self.routing = Routing(self.model.experts, weights).top_k(self.model.top_k)

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        rows = rows.cpu()
        self.rows.keep(rows)
        self.choice, self.state = self.choice.keep(rows), select_rows(self.state, rows)
        if self.routing is not None:
            self.routing = Routing(self.model.experts, self.routing.dense()[rows])
