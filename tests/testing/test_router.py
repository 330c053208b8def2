"""The suite accepts what keeps the contract and refuses each way of breaking it, by name."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch

from collegium.core.protocols import Context
from collegium.core.routing import Routing
from collegium.routers import Posterior, PosteriorRouter, posterior, uniform
from collegium.routers.held import HeldRouter
from collegium.testing.router import check_regret_bound, check_router


@dataclass(frozen=True)
class Bent:
    """A posterior whose `step` is wrapped by a fault."""

    fault: Callable[..., Any]
    name: str = "bent"

    def bind(self, experts, *, shelf=None, tokenizer=None):
        inner = Posterior().bind(experts)
        assert isinstance(inner, PosteriorRouter)
        return BentRouter(inner, self.fault)


@dataclass(frozen=True)
class BentRouter:
    inner: PosteriorRouter
    fault: Callable[..., Any]
    growth: str = "exact"
    needs_likelihoods: bool = True

    @property
    def experts(self):
        return self.inner.experts

    def start(self, context: Context):
        return self.inner.start(context)

    def step(self, state, tokens, log_likelihoods):
        return self.fault(self.inner, state, tokens, log_likelihoods)


def rebuilt(routing: Routing, weights: torch.Tensor) -> Routing:
    """A routing that escapes the checks of its constructor."""
    bent = object.__new__(Routing)
    for name, value in (("experts", routing.experts), ("weights", weights), ("index", None), ("kind", "simplex")):
        object.__setattr__(bent, name, value)
    return bent


def looks_ahead(inner, state, tokens, log_likelihoods):
    shifted = torch.cat([log_likelihoods[:, 1:], log_likelihoods[:, -1:]], dim=1)
    return inner.step(state, tokens, shifted)


def moved_by_padding(inner, state, tokens, log_likelihoods):
    return inner.step(state, tokens.clamp(min=0), log_likelihoods)


def ends_at_padding(inner, state, tokens, log_likelihoods):
    return inner.step(state, tokens.masked_fill((tokens < 0).cummax(dim=1).values, -1), log_likelihoods)


def forgets_at_every_call(inner, state, tokens, log_likelihoods):
    return inner.step((state[0], torch.zeros_like(state[1])), tokens, log_likelihoods)


def prefers_the_first(inner, state, tokens, log_likelihoods):
    routing, state = inner.step(state, tokens, log_likelihoods)
    tilted = routing.weights * torch.tensor([2.0] + [1.0] * (len(inner.experts) - 1))
    return Routing(routing.experts, tilted / tilted.sum(-1, keepdim=True)), state


def unnormalised(inner, state, tokens, log_likelihoods):
    routing, state = inner.step(state, tokens, log_likelihoods)
    return rebuilt(routing, routing.weights * 1.1), state


def negative(inner, state, tokens, log_likelihoods):
    routing, state = inner.step(state, tokens, log_likelihoods)
    return rebuilt(routing, routing.weights - torch.tensor([0.9, -0.9] + [0.0] * (len(inner.experts) - 2))), state


def mixes_texts(inner, state, tokens, log_likelihoods):
    return inner.step(state, tokens, log_likelihoods.mean(dim=0, keepdim=True).expand_as(log_likelihoods))


def changes_its_state(inner, state, tokens, log_likelihoods):
    routing, (_, running) = inner.step(state, tokens, log_likelihoods)
    state[1].copy_(running)
    return routing, state


def one_weight_too_few(inner, state, tokens, log_likelihoods):
    routing, state = inner.step(state, tokens, log_likelihoods)
    return Routing(routing.experts, routing.weights[:, 1:]), state


@pytest.mark.parametrize(
    ("fault", "says"),
    [
        (looks_ahead, "looks ahead"),
        (moved_by_padding, "padding"),
        (ends_at_padding, "wherever it stands"),
        (forgets_at_every_call, "pieces"),
        (prefers_the_first, "order of experts"),
        (unnormalised, "sum to 1"),
        (negative, "non-negative"),
        (mixes_texts, "looks ahead|alone"),
        (changes_its_state, "changed in place|pieces"),
        (one_weight_too_few, "one weight per token"),
    ],
)
def test_broken_routers_are_refused(fault: Callable[..., Any], says: str):
    with pytest.raises(AssertionError, match=says):
        check_router(Bent(fault))


@dataclass(frozen=True)
class Peeks:
    """Reads what stands behind its context."""

    name: str = "peeks"

    def bind(self, experts, *, shelf=None, tokenizer=None):
        primes = dict(zip(sorted(experts), (7, 11, 13, 17), strict=False))

        def decide(context: Context):
            weights = [
                [(sum(row) + 1) * primes[name] % 19 + 1.0 for name in experts] for row in context.tokens.tolist()
            ]
            return torch.tensor(weights) / torch.tensor(weights).sum(dim=-1, keepdim=True)

        return HeldRouter(experts, decide)


def test_a_router_that_reads_behind_its_context_is_refused():
    with pytest.raises(AssertionError, match="behind a context"):
        check_router(Peeks())


def test_the_whole_router_is_accepted():
    check_router(posterior())


def test_too_many_experts_are_refused():
    with pytest.raises(AssertionError, match="at most 2 experts"):
        check_router(uniform(), top_k=2)


@dataclass(frozen=True)
class Trace:
    """Sharper with every expert it was ever bound to, whoever is bound now."""

    seen: set[str] = field(default_factory=set)
    name: str = "trace"

    def bind(self, experts, *, shelf=None, tokenizer=None):
        self.seen.update(experts)
        return posterior(decay=1 / len(self.seen)).bind(experts)


def test_a_removal_that_leaves_a_trace_is_refused():
    with pytest.raises(AssertionError, match="restores every answer"):
        check_router(Trace())


def test_growth_of_a_fit_is_undone_by_its_own_means():
    calls: list[str] = []
    check_router(uniform(), grow=lambda: calls.append("grow"), shrink=lambda: calls.append("shrink"))
    assert calls == ["grow", "shrink"]


def test_the_cumulative_posterior_keeps_the_regret_bound():
    check_regret_bound(posterior())


def test_a_long_text_loses_nothing_to_rounding():
    check_regret_bound(posterior(), sequences=6, seq=4096)


@pytest.mark.parametrize("decay", [0.0, 0.5])
def test_a_posterior_that_forgets_breaks_the_regret_bound(decay: float):
    """Decay 0 is the one-token posterior of DEMix's public code."""
    with pytest.raises(AssertionError, match="M3"):
        check_regret_bound(posterior(decay=decay))


def test_a_uniform_mixture_breaks_the_regret_bound():
    with pytest.raises(AssertionError, match="M3"):
        check_regret_bound(uniform())
