"""What every prefix router must satisfy, whatever it weighs by."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.protocols import Context, PrefixRouter, RouterRecipe, RouterState, Shelf, Tokenizer
from collegium.core.randomness import generator
from collegium.core.routing import BASE, dense_weights
from collegium.core.state import select_rows

_ROUNDING = 1e-5
"""What another order of summation may move a weight by, in float32."""


@dataclass(frozen=True)
class _Trial:
    """Texts, the context before them, and what each expert says about each of their tokens."""

    context: Context
    tokens: Int[Tensor, "batch seq"]
    likelihoods: Mapping[str, Float[Tensor, "batch seq"]]

    def read(
        self, router: PrefixRouter, state: RouterState, *, start: int = 0, stop: int | None = None
    ) -> tuple[Float[Tensor, "batch seq expert"], RouterState]:
        """Return the weights after the tokens from start to stop, one column per expert and `base` last."""
        tokens = self.tokens[:, start:stop]
        stacked = torch.stack([self.likelihoods[name] for name in router.experts], dim=-1)
        routing, state = router.step(state, tokens, stacked[:, start:stop] if router.needs_likelihoods else None)
        assert routing.weights.shape[1] in (1, tokens.shape[1]), (
            f"one weight per token, or one for all of them: {tokens.shape[1]} tokens, {routing.weights.shape[1]}"
        )
        names = tuple(name for name in self.likelihoods if name != BASE)
        return dense_weights(routing, (*names, BASE)).expand(*tokens.shape, -1), state

    def weights(self, router: PrefixRouter) -> Float[Tensor, "batch seq expert"]:
        """Return the weights after every token, read at once."""
        return self.read(router, router.start(self.context))[0]

    def rows(self, rows: Int[Tensor, " kept"]) -> "_Trial":
        """Return the trial of these texts alone."""
        context = Context(
            self.context.tokens[rows],
            self.context.lengths[rows],
            None if self.context.texts is None else tuple(self.context.texts[row] for row in rows.tolist()),
            None if self.context.domains is None else tuple(self.context.domains[row] for row in rows.tolist()),
        )
        return _Trial(context, self.tokens[rows], {name: each[rows] for name, each in self.likelihoods.items()})

    def padded_after(self, lengths: Int[Tensor, " batch"]) -> "_Trial":
        """Return the trial with every token from its text's length on negative, and other likelihoods there."""
        padding = torch.arange(self.tokens.shape[1]) >= lengths[:, None]
        noise = {name: torch.where(padding, each - 7.0, each) for name, each in self.likelihoods.items()}
        return _Trial(self.context, self.tokens.masked_fill(padding, -1), noise)

    def padded_between(self) -> tuple["_Trial", Int[Tensor, "batch place"]]:
        """Return the trial with negative tokens at random places of each text, and the token last read at each."""
        batch, seq = self.tokens.shape
        chosen = 1 + torch.rand(batch, seq + 2, generator=generator(0, "padding")).argsort(dim=1)[:, :3]
        padding = torch.zeros(batch, seq + 3, dtype=torch.bool).scatter(1, chosen, True)
        last = (~padding).cumsum(dim=1) - 1
        noise = {name: each.gather(1, last) - 7.0 * padding for name, each in self.likelihoods.items()}
        return _Trial(self.context, self.tokens.gather(1, last).masked_fill(padding, -1), noise), last

    def changed_from(self, place: int) -> "_Trial":
        """Return the trial with other tokens and other likelihoods from `place` on."""
        later = torch.arange(self.tokens.shape[1]) >= place
        likelihoods = {name: torch.where(later, 2 * each.flip(0) - 1, each) for name, each in self.likelihoods.items()}
        return _Trial(self.context, torch.where(later, self.tokens.flip(0), self.tokens), likelihoods)


def check_router(
    recipe: RouterRecipe,
    *,
    experts: tuple[str, ...] = ("law", "code", "chat"),
    shelf: Shelf | None = None,
    tokenizer: Tokenizer | None = None,
    texts: Sequence[Sequence[int]] | None = None,
    domains: tuple[str, ...] | None = None,
    top_k: int | None = None,
    newcomer: str | None = "newcomer",
    grow: Callable[[], None] | None = None,
    shrink: Callable[[], None] | None = None,
    seed: int = 0,
) -> None:
    """Return nothing when the router keeps the contract of `PrefixRouter`; raise AssertionError with what broke.

    The laws: weights are a distribution with at most `top_k` experts; nothing looks ahead; n tokens at once are as one
    by one, to the last bit; padding moves nothing, and so does what stands behind a context; a text in a batch is as
    it is alone, also after others were dropped; a state is never changed in place; the order of experts does not
    matter; with a newcomer added and removed again every answer is as before, to the last bit.

    texts:        token ids to read (at least two, of at least four tokens), by default random ones below 20.
    domains:      the true domain of each text, for the oracle.
    newcomer:     the expert that is added and removed; None leaves that law out.
    grow, shrink: what fits the newcomer and what forgets it, where a router is fitted.
    """
    trial = _trial(texts, (*experts, newcomer or BASE, BASE), tokenizer=tokenizer, domains=domains, seed=seed)
    router = recipe.bind(experts, shelf=shelf, tokenizer=tokenizer)
    _check_weights(router, trial, experts, top_k=top_k)
    _check_looks_back(router, trial)
    _check_step_by_step(router, trial)
    _check_rows(router, trial)
    _check_padding(router, trial)
    _check_context(router, trial)
    _check_state_is_a_value(router, trial)
    turned = recipe.bind(experts[::-1], shelf=shelf, tokenizer=tokenizer)
    _same(trial.weights(turned), trial.weights(router), within=_ROUNDING, law="the order of experts does not matter")
    if newcomer is not None and router.growth == "exact":
        before = trial.weights(router)
        if grow is not None:
            grow()
        larger = recipe.bind((*experts, newcomer), shelf=shelf, tokenizer=tokenizer)
        _check_weights(larger, trial, (*experts, newcomer), top_k=top_k)
        if shrink is not None:
            shrink()
        after = trial.weights(recipe.bind(experts, shelf=shelf, tokenizer=tokenizer))
        _same(after, before, within=0.0, law="adding and removing an expert restores every answer")


def check_regret_bound(
    recipe: RouterRecipe,
    *,
    experts: tuple[str, ...] = ("law", "code", "chat"),
    sequences: int = 60,
    seq: int = 24,
    seed: int = 0,
    tolerance_nats: float = 1e-3,
) -> None:
    """Return nothing when the router's mixture keeps Bayes' regret bound on every sequence tried (claim M3).

    NLL(sequence) <= min_j [NLL_j(sequence) + log 1 / pi_j], pi = the weights before anything was predicted. Tried on
    sequences with one better expert, with experts that change places, and with noise of several sizes. The one-token
    posterior of DEMix's public code breaks it and is refused.
    """
    router = recipe.bind(experts)
    likelihoods = _hard_likelihoods(len(router.experts), sequences, seq, seed=seed)
    tokens = torch.zeros(sequences, seq, dtype=torch.long)
    context = Context(tokens[:, :1], torch.ones(sequences, dtype=torch.long))
    routing, _ = router.step(router.start(context), tokens, likelihoods)
    log_weights = dense_weights(routing, router.experts).expand_as(likelihoods).double().log()
    mixture = (log_weights[:, :-1] + likelihoods[:, 1:].double()).logsumexp(dim=-1).sum(dim=1)
    bound = (likelihoods.double().sum(dim=1) + log_weights[:, 0]).amax(dim=-1)
    worst = float((bound - mixture).max())
    assert worst <= tolerance_nats, f"the regret bound (claim M3) is broken by {worst:.4g} nats"


def _hard_likelihoods(experts: int, sequences: int, seq: int, *, seed: int) -> Float[Tensor, "batch seq expert"]:
    """Return log-likelihoods of three kinds of sequences; nothing is predicted at the first token."""
    draw = generator(seed, "regret")
    noise = torch.randn(sequences, seq, experts, generator=draw) * torch.logspace(-1, 1, sequences)[:, None, None]
    better = torch.arange(sequences)[:, None] % experts
    steady = torch.nn.functional.one_hot(better.expand(-1, seq), experts)
    swap = torch.where(torch.arange(seq) < seq // 2, better, (better + 1) % experts)
    kinds = torch.stack([torch.zeros(sequences, seq, experts), steady, torch.nn.functional.one_hot(swap, experts)])
    kind = kinds[torch.arange(sequences) % 3, torch.arange(sequences)]
    likelihoods = -(noise + 2.0 * (1 - kind)).abs()
    likelihoods[:, 0] = 0.0
    return likelihoods


def _trial(
    texts: Sequence[Sequence[int]] | None,
    names: tuple[str, ...],
    *,
    tokenizer: Tokenizer | None,
    domains: tuple[str, ...] | None,
    seed: int,
) -> _Trial:
    draw = generator(seed, "router")
    if texts is None:
        rows = 3 if domains is None else len(domains)
        texts = torch.randint(0, 20, (rows, 12), generator=draw).tolist()
    seq = min(len(text) for text in texts)
    assert len(texts) >= 2, "a router is tried on at least two texts"
    assert seq >= 4, "a router is tried on texts of at least four tokens"
    tokens = torch.tensor([list(text)[:seq] for text in texts])
    lengths = torch.tensor([seq // 2 - row % 2 for row in range(len(texts))])
    opening = [text[:length] for text, length in zip(texts, lengths.tolist(), strict=True)]
    words = None if tokenizer is None else tuple(tokenizer.decode(each) for each in opening)
    context = Context(tokens[:, : int(lengths.max())], lengths, words, domains)
    likelihoods = {name: -2 * torch.rand(tokens.shape, generator=draw) for name in names}
    for each in likelihoods.values():
        each[:, 0] = 0.0
    return _Trial(context, tokens, likelihoods)


def _same(actual: Tensor, expected: Tensor, *, within: float, law: str) -> None:
    gap = float((actual - expected).abs().max()) if actual.numel() else 0.0
    assert gap <= within, f"{law}: weights differ by {gap:.3g}, allowed {within:.3g}"


def _check_weights(router: PrefixRouter, trial: _Trial, experts: tuple[str, ...], *, top_k: int | None) -> None:
    unknown = set(router.experts) - {*experts, BASE}
    assert not unknown, f"the router knows experts it was not bound to: {sorted(unknown)}"
    weights = trial.weights(router)
    assert (weights >= 0).all(), f"weights are non-negative, got {float(weights.min()):.4g}"
    _same(weights.sum(dim=-1), torch.ones(weights.shape[:-1]), within=1e-4, law="weights sum to 1, counting base")
    most = int((weights > 0).sum(dim=-1).max())
    assert top_k is None or most <= top_k, f"at most {top_k} experts speak, got {most}"


def _check_looks_back(router: PrefixRouter, trial: _Trial) -> None:
    before = trial.weights(router)
    for place in range(1, trial.tokens.shape[1]):
        after = trial.changed_from(place).weights(router)
        law = f"nothing looks ahead: changing tokens from {place} on leaves the weights before"
        _same(after[:, :place], before[:, :place], within=0.0, law=law)


def _check_step_by_step(router: PrefixRouter, trial: _Trial) -> None:
    seq = trial.tokens.shape[1]
    at_once = trial.weights(router)
    for cuts in (range(seq + 1), (0, 1, 1, seq - 2, seq)):
        state, pieces = router.start(trial.context), []
        for start, stop in pairwise(cuts):
            weights, state = trial.read(router, state, start=start, stop=stop)
            pieces.append(weights)
        law = f"reading in {len(pieces)} pieces is as reading at once"
        _same(torch.cat(pieces, dim=1), at_once, within=0.0, law=law)


def _check_padding(router: PrefixRouter, trial: _Trial) -> None:
    batch, seq = trial.tokens.shape
    lengths = torch.tensor([2 + row % (seq - 2) for row in range(batch)])
    padded = trial.padded_after(lengths)
    valid = (torch.arange(seq) < lengths[:, None])[..., None]
    full, read = trial.weights(router), padded.weights(router)
    _same(read * valid, full * valid, within=0.0, law="padding moves nothing before it")
    between, last = trial.padded_between()
    wanted = full.gather(1, last[..., None].expand(-1, -1, full.shape[-1]))
    _same(between.weights(router), wanted, within=0.0, law="padding moves nothing, wherever it stands")
    held = full.gather(1, (lengths - 1)[:, None, None].expand_as(full[:, :1]))
    _same(read * ~valid, held * ~valid, within=0.0, law="the weights of padding are those before it")
    _, state = padded.read(router, router.start(trial.context))
    for row, length in enumerate(lengths.tolist()):
        alone = trial.rows(torch.tensor([row]))
        _, unpadded = alone.read(router, router.start(alone.context), stop=length)
        expected, _ = alone.read(router, unpadded, start=length)
        after, _ = alone.read(router, select_rows(state, torch.tensor([row])), start=length)
        _same(after, expected, within=_ROUNDING, law="padding leaves the state as it was")


def _check_context(router: PrefixRouter, trial: _Trial) -> None:
    context, before = trial.context, trial.weights(router)
    wider = torch.cat([context.tokens, context.tokens[:, :2]], dim=1)
    behind = torch.arange(wider.shape[1]) >= context.lengths[:, None]
    for tokens in (wider.masked_fill(behind, -1), torch.where(behind, wider.flip(0), wider)):
        after = replace(trial, context=replace(context, tokens=tokens)).weights(router)
        _same(after, before, within=0.0, law="nothing looks ahead: what stands behind a context moves nothing")


def _check_rows(router: PrefixRouter, trial: _Trial) -> None:
    batch, seq = trial.tokens.shape
    together = trial.weights(router)
    for row in range(batch):
        alone = trial.rows(torch.tensor([row])).weights(router)
        _same(alone[0], together[row], within=_ROUNDING, law="a text in a batch is as it is alone")
    middle = seq // 2
    _, state = trial.read(router, router.start(trial.context), stop=middle)
    kept = torch.arange(batch - 1, 0, -1)  # the first leaves, the others turn round
    later, _ = trial.rows(kept).read(router, select_rows(state, kept), start=middle)
    _same(later, together[kept, middle:], within=_ROUNDING, law="texts go on alike when others were dropped")


def _check_state_is_a_value(router: PrefixRouter, trial: _Trial) -> None:
    _, state = trial.read(router, router.start(trial.context), stop=2)
    first, _ = trial.read(router, state, start=2)
    second, _ = trial.read(router, state, start=2)
    _same(second, first, within=0.0, law="a state is never changed in place: two steps from one state are alike")
