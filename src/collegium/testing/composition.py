"""What every composition must satisfy: closure, and that routing to one expert is that expert."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.protocols import (
    Context,
    LanguageModel,
    PrefixRouter,
    RouterRecipe,
    RouterState,
    Shelf,
    Tokenizer,
)
from collegium.core.randomness import generator
from collegium.core.routing import Routing
from collegium.routers import fixed, posterior, uniform
from collegium.routers.held import HeldRouter
from collegium.testing.language_model import check_language_model

Compose = Callable[[RouterRecipe], LanguageModel]
"""Builds the composition under test with a router."""


def check_composition(
    compose: Compose,
    alone: Mapping[str, LanguageModel],
    *,
    seed: int = 0,
    tolerance: float = 1e-4,
) -> None:
    """Return nothing when a composition keeps its laws; raise AssertionError with what broke.

    The laws: it is a language model whatever its router (`check_language_model`), also with one that gives every text
    or every token weights of its own and leaves experts silent; all weight on one expert is that
    expert alone; all weight on the base is the base; order of the names in a routing is irrelevant; a text in a batch
    is routed as it is alone.

    compose: builds it with a router recipe over the experts of `alone`.
    alone:   each expert as a language model by itself, and the base under `base`.
    """
    experts = [name for name in alone if name != "base"]
    simple = (uniform(), posterior(), fixed({experts[0]: 0.75, experts[-1]: 0.25}))
    for recipe in (*simple, _Hashed(held=True), _Hashed(held=False)):
        check_language_model(compose(recipe), seed=seed, batch=3, seq=7, contexts=(1, 3), tolerance=tolerance)
    vocab = next(iter(alone.values())).vocab_size
    tokens = torch.randint(0, vocab, (2, 9), generator=generator(seed, "composition"))
    for name, model in alone.items():
        weights = {experts[0]: 0.0} if name == "base" else {name: 1.0}
        gap = (compose(fixed(weights)).score(tokens) - model.score(tokens)).abs().max()
        assert float(gap) <= tolerance, f"all weight on {name!r} must be {name!r} alone, off by {float(gap):.3g}"
    pair = {experts[0]: 0.7, experts[-1]: 0.3}
    turned = dict(reversed(pair.items()))
    gap = (compose(fixed(pair)).score(tokens) - compose(fixed(turned)).score(tokens)).abs().max()
    assert float(gap) <= tolerance, f"the order of names must not matter, off by {float(gap):.3g}"


@dataclass(frozen=True)
class _Hashed:
    """Weights that what was read decides at random, one expert silent; held from the context, or new at each token."""

    held: bool

    @property
    def name(self) -> str:
        return "hashed"

    def bind(
        self, experts: tuple[str, ...], *, shelf: Shelf | None = None, tokenizer: Tokenizer | None = None
    ) -> PrefixRouter:
        return HeldRouter(experts, _decide(experts)) if self.held else _HashedRouter(experts)


@dataclass(frozen=True)
class _HashedRouter:
    """State: what each text read so far, as one number."""

    experts: tuple[str, ...]
    needs_likelihoods: bool = False
    growth: Literal["exact", "refit"] = "exact"

    def start(self, context: Context) -> RouterState:
        return [0] * context.batch

    def step(
        self, state: RouterState, tokens: Int[Tensor, "batch seq"], log_likelihoods: Tensor | None
    ) -> tuple[Routing, RouterState]:
        paths = [_read(row, before) for row, before in zip(tokens.tolist(), state, strict=True)]
        weights = torch.stack([_drawn(path[1:], self.experts) for path in paths])
        return Routing(self.experts, weights), [path[-1] for path in paths]


def _decide(experts: tuple[str, ...]) -> Callable[[Context], Float[Tensor, "batch expert"]]:
    def decide(context: Context) -> Float[Tensor, "batch expert"]:
        rows = zip(context.tokens.tolist(), context.lengths.tolist(), strict=True)
        return torch.cat([_drawn([_read(row[:length])[-1]], experts) for row, length in rows])

    return decide


def _read(tokens: Sequence[int], start: int = 0) -> list[int]:
    """Return a hash of the text at its start and after each token; padding moves nothing."""
    return [*accumulate(tokens, lambda so_far, token: so_far if token < 0 else so_far * 31 + token + 1, initial=start)]


def _drawn(seeds: Sequence[int], experts: tuple[str, ...]) -> Float[Tensor, "seed expert"]:
    """Return random weights for each seed, the least of several experts silent."""
    draws = [torch.rand(len(experts), generator=generator(seed, "hashed")) for seed in seeds]
    weights = torch.stack(draws) if draws else torch.zeros(0, len(experts))
    if len(experts) > 1:
        weights = weights.masked_fill(weights == weights.amin(dim=-1, keepdim=True), 0.0)
    return weights / weights.sum(dim=-1, keepdim=True)


def check_mixture(compose: Compose, alone: Mapping[str, LanguageModel], *, seed: int = 0) -> None:
    """Return nothing when an ensemble is exactly sum_j w_j p_j for fixed weights; raise AssertionError otherwise."""
    experts = [name for name in alone if name != "base"]
    weights = {experts[0]: 0.6, experts[-1]: 0.3}
    vocab = alone[experts[0]].vocab_size
    tokens = torch.randint(0, vocab, (2, 7), generator=generator(seed, "mixture"))
    parts = {**weights, "base": 0.1} if "base" in alone else {experts[0]: 2 / 3, experts[-1]: 1 / 3}
    model = compose(fixed({name: weight for name, weight in parts.items() if name != "base"}))
    wanted = torch.stack([alone[name].logprobs(tokens).exp() * weight for name, weight in parts.items()]).sum(0)
    gap = (model.logprobs(tokens).exp() - wanted).abs().max()
    assert float(gap) <= 1e-5, f"an ensemble is the weighted sum of its experts' probabilities, off by {float(gap):.3g}"
