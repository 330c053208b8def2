"""Policies that are whole models: equal to the base at first, which stays as it is."""

from pathlib import Path

import pytest
import torch
from test_policy import drawn

from collegium.align.config import AlignConfig
from collegium.align.draws import as_prompt, draw
from collegium.align.features import regex
from collegium.align.fit import align
from collegium.align.policy import Policy
from collegium.align.target import Constraint, Target, solved
from collegium.align.whole import WholePolicy
from collegium.core.randomness import generator
from collegium.testing.pico import pico_base
from collegium.train import Checkpoints

CONFIG = AlignConfig(samples=192, batch=32, tokens=4, learning_rate=0.01)
LETTER = regex("[a-h]")


def moved(config: AlignConfig = CONFIG, **options) -> tuple[WholePolicy, float]:
    """Return a policy that was moved, and how often the base has the feature."""
    base = pico_base()
    prompt = as_prompt("Once", base)
    pool = draw(base, [prompt] * 128, drawing=config.drawing(), random=generator(0, "pool"))
    aim = solved(Target(base, (Constraint(LETTER),)), pool)
    policy = WholePolicy.fresh(base)
    align(policy, aim, [prompt], config=config, **options)
    return policy, float(LETTER(pool.samples).mean())


def test_a_fresh_policy_is_a_policy_and_says_what_the_base_says():
    base = pico_base()
    policy, draws = WholePolicy.fresh(base), drawn(base)
    assert isinstance(policy, Policy)
    assert torch.equal(draws.log_prob(policy.speaker()), draws.log_prob(base))
    torch.testing.assert_close(policy.learn(draws).double().sum(-1), draws.log_prob(base), atol=1e-5, rtol=0)
    assert policy.states(draws).shape == (*draws.tokens.shape, policy.state_size)


def test_every_weight_is_moved_and_the_base_stays():
    base = pico_base()
    before = {name: weight.clone() for name, weight in base.model.named_parameters()}
    policy, share = moved()
    after = draw(
        policy.speaker(), [as_prompt("Once", base)] * 128, drawing=CONFIG.drawing(), random=generator(1, "after")
    )
    assert float(LETTER(after.samples).mean()) > share + 0.2
    assert all(torch.equal(weight, before[name]) for name, weight in base.model.named_parameters())
    assert not any(torch.equal(weight, before[name]) for name, weight in policy.weights.items())


def test_a_twin_has_weights_of_its_own():
    policy = WholePolicy.fresh(pico_base())
    twin = policy.twin()
    with torch.no_grad():
        for weight in policy.weights.values():
            weight += 0.1
    draws = drawn(policy.base)
    assert not torch.equal(draws.log_prob(twin.speaker()), draws.log_prob(policy.speaker()))
    twin.load(policy.weights)
    assert torch.equal(draws.log_prob(twin.speaker()), draws.log_prob(policy.speaker()))


@pytest.mark.parametrize("method", ["gdc++", "ppo"])
def test_n_updates_and_n_more_are_twice_n(method: str, tmp_path: Path):
    config = AlignConfig(samples=128, batch=32, tokens=4, learning_rate=1e-3, method=method, check_every=1)
    whole, _ = moved(config)
    moved(config, checkpoints=Checkpoints(tmp_path, "align"), until=2)
    again, _ = moved(config, checkpoints=Checkpoints(tmp_path, "align"))
    assert all(torch.equal(weight, again.weights[name]) for name, weight in whole.weights.items())


def test_a_whole_model_is_moved_by_smaller_steps():
    assert CONFIG.loop(1e-5).learning_rate == 0.01
    assert AlignConfig().loop(WholePolicy.usual_rate).learning_rate == 1e-5
