"""Claims M2, M3, M5 and M11 where they are exact or nearly so: four bigram experts, each the author of its domain."""

import math
from functools import cache

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.protocols import Context, RouterRecipe
from collegium.core.randomness import generator
from collegium.core.routing import dense_weights
from collegium.ops.posterior import mix_log_probs
from collegium.routers import oracle, posterior, uniform
from collegium.testing.tiny import bigram_lm

DOMAINS = ("law", "code", "chat", "drama")
TEXTS, LENGTH = 40, 64


@cache
def likelihoods(domain: str) -> torch.Tensor:
    """What each expert says about texts of a domain: text, token, expert."""
    authors = [bigram_lm(place, sharpness=1.0) for place in range(len(DOMAINS))]
    draw = generator(0, "claims", domain)
    texts = authors[DOMAINS.index(domain)].sample(TEXTS, length=LENGTH, generator=draw)
    return torch.stack([author.score(texts) for author in authors], dim=-1)


def perplexity(recipe: RouterRecipe, domain: str, *, without: str | None = None) -> float:
    """Perplexity of the mixture on a domain, with all experts or without one."""
    names = tuple(name for name in DOMAINS if name != without)
    scores = likelihoods(domain)[..., [DOMAINS.index(name) for name in names]]
    tokens = torch.zeros(scores.shape[:2], dtype=torch.long)
    context = Context(tokens[:, :1], torch.ones(TEXTS, dtype=torch.long), domains=(domain,) * TEXTS)
    router = recipe.bind(names)
    given_scores = scores if router.needs_likelihoods else None
    weights = dense_weights(router.step(router.start(context), tokens, given_scores)[0], names)
    log_weights = weights.expand(*tokens.shape, -1).log()
    return math.exp(-float(mix_log_probs(log_weights[:, :-1], scores[:, 1:]).mean()))


@pytest.mark.parametrize("domain", DOMAINS)
def test_claim_m2_the_posterior_is_better_than_uniform_and_near_the_oracle(domain: str):
    best = oracle({name: name for name in DOMAINS})
    assert perplexity(posterior(), domain) < 0.9 * perplexity(uniform(), domain)
    assert perplexity(posterior(), domain) < 1.03 * perplexity(best, domain)


def test_the_one_token_posterior_is_between_uniform_and_cumulative():
    for domain in DOMAINS:
        one_token = perplexity(posterior(decay=0.0), domain)
        assert 1.1 * perplexity(posterior(), domain) < one_token < perplexity(uniform(), domain)


@pytest.mark.parametrize("removed", DOMAINS)
def test_claim_m5_removing_an_expert_is_felt_on_its_domain_alone(removed: str):
    for domain in DOMAINS:
        change = perplexity(posterior(), domain, without=removed) / perplexity(posterior(), domain)
        if domain == removed:
            assert change > 1.5
        else:
            assert change == pytest.approx(1.0, abs=0.01)


@given(seed=st.integers(0, 2**31), row=st.integers(0, TEXTS - 1), domain=st.sampled_from(DOMAINS))
def test_claim_m3_holds_on_every_text_for_every_prior(seed: int, row: int, domain: str):
    prior = torch.rand(4, generator=torch.Generator().manual_seed(seed)).add(0.01).tolist()
    scores = likelihoods(domain)[row : row + 1]
    tokens = torch.zeros(scores.shape[:2], dtype=torch.long)
    router = posterior(dict(zip(DOMAINS, prior, strict=True))).bind(DOMAINS)
    routing, _ = router.step(router.start(Context(tokens[:, :1], torch.ones(1, dtype=torch.long))), tokens, scores)
    nats = -float(mix_log_probs(routing.log_weights()[:, :-1], scores[:, 1:]).sum())
    bound = float((-scores.sum(dim=1) - routing.weights[:, 0].log()).min())
    assert nats <= bound + 1e-4
