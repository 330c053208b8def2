"""What every composition must satisfy: closure, and that routing to one expert is that expert."""

from collections.abc import Callable, Mapping

import torch

from collegium.core.protocols import LanguageModel, RouterRecipe
from collegium.core.randomness import generator
from collegium.routers import fixed, posterior, uniform
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

    The laws: it is a language model whatever its router (`check_language_model`); all weight on one expert is that
    expert alone; all weight on the base is the base; order of the names in a routing is irrelevant; a text in a batch
    is routed as it is alone.

    compose: builds it with a router recipe over the experts of `alone`.
    alone:   each expert as a language model by itself, and the base under `base`.
    """
    experts = [name for name in alone if name != "base"]
    for recipe in (uniform(), posterior(), fixed({experts[0]: 0.75, experts[-1]: 0.25})):
        check_language_model(compose(recipe), seed=seed, batch=2, seq=7, contexts=(1, 3), tolerance=tolerance)
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
