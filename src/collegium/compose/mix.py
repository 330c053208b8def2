"""Mix: one row, the experts' activations blended inside the slots. y = W x + sum_e w_e s_e B_e A_e x."""

from collections.abc import Collection, Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.compose.asking import Asked
from collegium.compose.choice import Choice
from collegium.compose.routed import (
    check_parts,
    hide_padding,
    last_weights,
    read_context,
    right_padded,
    route,
    row_context,
    row_lengths,
)
from collegium.compose.voices import SlotVoices
from collegium.core.protocols import Decoding, PrefixRouter, RouterState, Tokenizer
from collegium.core.routing import BASE, Routing, dense_weights
from collegium.core.state import select_rows
from collegium.models import Base, Group, RowPlan, RowReader, after_context


class Mix:
    """A language model: the base with a blend of adapters.

    A router that reads text alone may change the blend at every token: the weights after token i act at position i,
    and stay with the keys and values written there. A router that needs likelihoods is made coarse: the context is
    scored with one row per expert, and the weights at its end are held.
    """

    def __init__(
        self,
        base: Base,
        keys: Mapping[str, str],
        router: PrefixRouter,
        *,
        top_k: int | None = None,
        heard: Base | None = None,
    ) -> None:
        """Keep the base, its attached adapters by expert name, and the router.

        heard: the base whose experts' likelihoods the router is told, default = the same.
        Raises RoutingError when the router knows an expert that is not attached, or top_k is less than 1.
        """
        check_parts(router, (*keys, BASE), top_k)
        self.base, self.keys, self.router, self.top_k = base, dict(keys), router, top_k
        self.heard = heard or base
        self._voices = SlotVoices(self.heard, keys)

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The base's tokenizer."""
        return self.base.tokenizer

    @property
    def vocab_size(self) -> int:
        """The base's vocabulary."""
        return self.base.vocab_size

    @property
    def context_tokens(self) -> int | None:
        """The longest text that the base reads."""
        return self.base.context_tokens

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
        """Return the weights that act at each position (seq axis 1 when they are held), after top-k."""
        many = row_lengths(tokens, lengths)
        read = row_context(context, many)
        if self.router.needs_likelihoods:
            routing = self._held(tokens[:, : int(read.max())], read)
        else:
            routing = route(self.router, tokens, lengths=many, context=read, tokenizer=self.tokenizer)
        return routing.top_k(self.top_k)

    def _held(self, tokens: Int[Tensor, "batch seq"], context: Int[Tensor, " batch"]) -> Routing:
        table = self._voices.score(tokens, Choice(self.experts), lengths=context)
        routing = route(
            self.router, tokens, lengths=context, context=context, tokenizer=self.tokenizer, log_likelihoods=table
        )
        return Routing(self.experts, last_weights(routing, context), kind=routing.kind)

    def plan(self, routing: Routing, *, also: Collection[str] = ()) -> RowPlan:
        """Return the blend of the experts with any weight, and of those attached as `also`, at weight 0 if need be."""
        names = tuple(name for name in self.experts if name != BASE)
        weights = dense_weights(routing, (*names, BASE))[..., :-1]
        live = weights.flatten(0, 1).any(0)
        live |= torch.tensor([self.keys[name] in also for name in names], dtype=torch.bool, device=live.device)
        kept = tuple(self.keys[name] for name, on in zip(names, live.tolist(), strict=True) if on)
        return RowPlan((Group(kept, weights[..., live]),)) if kept else RowPlan((Group(),))

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
        plan = self.plan(self.routing(tokens, lengths=many, context=read))
        return self.base.score_rows(tokens, lengths=many, plan=plan, scored=after_context(tokens, read))[0]

    @torch.no_grad()
    def logprobs(
        self,
        tokens: Int[Tensor, "batch seq"],
        *,
        lengths: Int[Tensor, " batch"] | None = None,
        context: int | Int[Tensor, " batch"] = 1,
    ) -> Float[Tensor, "batch seq vocab"]:
        """Return the distribution over the next token at every position."""
        plan = self.plan(self.routing(tokens, lengths=lengths, context=context))
        return self.base.logprobs_rows(tokens, plan=plan)[0]

    @torch.no_grad()
    def open(self, prompts: Sequence[Sequence[int]]) -> Decoding:
        """Return a decoding of the prompts; each prompt is the context its router reads."""
        asked = self.ask(prompts)
        return asked.begin(self.base.open_rows(prompts, asked.plan))

    @torch.no_grad()
    def ask(self, prompts: Sequence[Sequence[int]]) -> Asked:
        """Return the blend that reads the prompts, each of which is the context its router reads."""
        tokens, lengths = right_padded(prompts)
        held = self.router.needs_likelihoods
        if held:
            routing, state = self._held(tokens, lengths), None
        else:
            state = self.router.start(read_context(tokens, lengths, tokenizer=self.tokenizer))
            routing, state = self.router.step(state, hide_padding(tokens, lengths), None)
        routing = routing.top_k(self.top_k)
        last = Routing(self.experts, last_weights(routing, lengths), kind=routing.kind)
        read = int(lengths.sum()) if held else 0
        return Asked(self.base, self.plan(routing), lambda rows: MixDecoding(self, rows, state, last), read)


class MixDecoding:
    """A mix's texts being continued."""

    def __init__(self, model: Mix, rows: RowReader, state: RouterState, routing: Routing) -> None:
        """Keep the rows and the router's state (None when the weights are held)."""
        self.model, self.rows, self.state = model, rows, state
        self.routing: Routing | None = routing

    def next_logprobs(self) -> Float[Tensor, "batch vocab"]:
        """Return the log-probabilities of the next token."""
        return self.rows.logprobs

    def shares(self, tokens: Int[Tensor, " batch"]) -> Float[Tensor, "batch expert"] | None:
        """Return the weights that act here: inside one blended network nobody speaks alone."""
        assert self.routing is not None
        return self.routing.dense()[:, 0].expand(len(tokens), -1)

    @torch.no_grad()
    def step(self, tokens: Int[Tensor, " batch"]) -> None:
        """Append one token to every text; a token router reads it first, its weights act at this position."""
        if self.model.router.needs_likelihoods or self.routing is None:
            self.rows.step(tokens)
            return
        routing, self.state = self.model.router.step(self.state, tokens.cpu()[:, None], None)
        weights = routing.top_k(self.model.top_k).dense()[:, -1:].expand(len(tokens), -1, -1)
        self.routing = Routing(self.model.experts, weights, kind=routing.kind)
        # Whoever spoke stays in the plan, silent or not: stacks are made anew only when somebody comes in.
        self.rows.step(tokens, self.model.plan(self.routing, also=self.rows.rows.names))

    def keep(self, rows: Int[Tensor, " kept"]) -> None:
        """Go on with these texts alone."""
        rows = rows.cpu()
        self.rows.keep(rows)
        self.state = select_rows(self.state, rows)
        if self.routing is not None:
            self.routing = Routing(self.model.experts, self.routing.dense()[rows], kind=self.routing.kind)
