"""The toy world keeps its laws, and its experiments measure what they say."""

import math

import pytest
import torch

from collegium.claims import bigrams, toy
from collegium.core.randomness import generator


@pytest.fixture(scope="module")
def world():
    return bigrams.draw_world(7, sequences=40)


@pytest.fixture(scope="module")
def experts(world):
    return [bigrams.fit(each) for each in world.train]


def test_a_world_is_decided_by_its_seed():
    same, other = bigrams.draw_world(7, sequences=3), bigrams.draw_world(8, sequences=3)
    assert torch.equal(bigrams.draw_world(7, sequences=3).test[2], same.test[2])
    assert not torch.equal(other.test[2], same.test[2])


def test_an_expert_is_a_distribution_and_comes_close_to_its_language(world):
    assert torch.allclose(bigrams.fit(world.train[0]).exp().sum(-1), torch.ones(20, dtype=torch.float64))
    many = bigrams.sample(world.tables[0], 20_000, generator=generator(0, "many"))
    assert float((bigrams.fit(many).exp() - world.tables[0]).abs().max()) < 0.02


def test_the_posterior_ensemble_weighs_with_what_came_before_alone(world, experts):
    scores = bigrams.score(experts, world.test[0])
    prior = bigrams.uniform_prior(4)
    changed = scores.clone()
    changed[:, 30:] = torch.randn(changed[:, 30:].shape, generator=generator(0, "noise"))
    assert torch.equal(bigrams.before_each(scores, prior)[:, :31], bigrams.before_each(changed, prior)[:, :31])
    first = bigrams.ensemble(scores, prior)[:, 0]
    assert torch.allclose(first, bigrams.uniform(scores)[:, 0])


def test_top_k_of_all_is_all_and_top_1_is_one_expert(world, experts):
    scores, prior = bigrams.score(experts, world.test[1]), bigrams.uniform_prior(4)
    whole = bigrams.ensemble(scores, prior)
    assert torch.allclose(bigrams.ensemble(scores, prior, top_k=4), whole)
    alone = bigrams.ensemble(scores, prior, top_k=1)
    assert bool((alone[..., None] - scores).abs().min(-1).values.max() < 1e-12)


def test_a_cached_prior_finds_the_domain(world, experts):
    prior = bigrams.cached_prior(bigrams.score(experts, world.dev[2])).exp()
    assert float(prior.sum()) == pytest.approx(1.0)
    assert int(prior.argmax()) == 2


def test_experts_of_one_domain_each_pass_and_shuffled_experts_do_not(world, experts):
    dense = bigrams.fit(torch.cat(world.train))
    found = toy.specialisation(world, experts, dense)
    assert min(found.values()) > 0.1
    shuffled = toy.specialisation(world, [experts[place] for place in (1, 2, 3, 0)], dense)
    assert shuffled["dense_minus_own"] < 0


def test_removal_is_seen_where_it_happens(world, experts):
    found = toy.removal(world, experts)
    assert found["rise_on_removed"] > 0.5
    assert found["change_on_others"] == pytest.approx(math.log(4 / 3) / 63, abs=2e-3)


def test_mixing_orders_the_ensembles(world, experts):
    found = toy.mixing(world, experts)
    perplexity = [found[f"perplexity_{name}"] for name in ("oracle", "posterior", "one_token", "uniform")]
    assert perplexity == sorted(perplexity)
