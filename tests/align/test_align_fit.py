"""Policies that are moved, on a model whose texts can be enumerated."""

import dataclasses
import math
from pathlib import Path

import pytest
import torch
from test_target import SIZE, every_text, says

from collegium.align.config import AlignConfig
from collegium.align.draws import Prompt
from collegium.align.fit import align
from collegium.align.lesson import Lesson, gradient_variance
from collegium.align.methods import METHODS
from collegium.align.target import Constraint, Moment, Part, Solved, Target, Tilt, solved
from collegium.core.errors import ConfigError, TargetError
from collegium.testing.table_policy import TablePolicy
from collegium.testing.tiny import TinyLM, tiny_lm
from collegium.train import Checkpoints

START, ENDS, LENGTH = Prompt("", (0,)), frozenset({0}), 3
CONFIG = AlignConfig(samples=60 * 200, batch=200, tokens=LENGTH, learning_rate=0.05)


def wanted(*parts: Part, seed: int = 0) -> tuple[TinyLM, Solved]:
    model = tiny_lm(seed)
    return model, solved(Target(model, parts), every_text(model))


def moved(model: TinyLM, aim: Solved, config: AlignConfig = CONFIG, **options) -> TablePolicy:
    policy = TablePolicy(model)
    align(policy, aim, [START], config=config, ends=ENDS, **options)
    return policy


def exact(policy: TinyLM, aim: Solved) -> tuple[float, float]:
    """Return KL(p || pi) and KL(pi || a), summed over all texts."""
    texts = every_text(policy)
    log_pi, log_a = texts.log_prob(policy), texts.log_prob(aim.target.reference)
    log_p = log_a + aim.target.log_factor(aim.target.values(texts.samples)) - aim.log_z
    p, pi = log_p.exp(), log_pi.exp()
    return float((p * torch.where(p > 0, log_p - log_pi, 0)).sum()), float((pi * (log_pi - log_a)).sum())


MATCHING = [name for name, row in METHODS.items() if row.matches and row.bounded and name != "fdpg-total_variation"]


@pytest.mark.parametrize("name", MATCHING)
def test_matching_comes_to_a_target_that_a_policy_can_be(name: str) -> None:
    model, aim = wanted(Constraint(says(2)))
    policy = moved(model, aim, dataclasses.replace(CONFIG, method=name))
    before, after = exact(model, aim), exact(policy.speaker(), aim)
    assert before[0] == pytest.approx(aim.moved)
    assert after[0] < 0.15 * before[0]
    assert after[1] < aim.moved + 0.3


def test_a_moment_is_met() -> None:
    model, aim = wanted(Moment(says(2), 0.5), seed=1)
    policy = moved(model, aim)
    texts = every_text(model)
    probabilities = texts.log_prob(policy.speaker()).exp()
    assert float((probabilities * aim.target.values(texts.samples)["says(2)"]).sum()) == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize("name", ["kl_control", "ppo", "fdpg-reverse_kl"])
def test_control_comes_to_its_implied_target(name: str) -> None:
    beta = 0.7
    model, aim = wanted(Tilt(SIZE, 1 / beta))
    policy = moved(model, aim, dataclasses.replace(CONFIG, method=name, beta=beta))
    assert exact(policy.speaker(), aim)[0] < 0.1 * exact(model, aim)[0]


@pytest.mark.parametrize("name", ["reinforce", "rloo", "grpo"])
def test_maximisers_reach_the_feature_and_forget_the_rest(name: str) -> None:
    model, aim = wanted(Constraint(says(2)))
    policy = moved(model, aim, dataclasses.replace(CONFIG, method=name))
    texts = every_text(model)
    probabilities = texts.log_prob(policy.speaker()).exp()
    assert float((probabilities * aim.target.values(texts.samples)["says(2)"]).sum()) > 0.95
    matched = moved(model, aim)
    assert exact(policy.speaker(), aim)[1] > max(aim.moved, exact(matched.speaker(), aim)[1])
    assert exact(policy.speaker(), aim)[0] > 1.5 * exact(matched.speaker(), aim)[0]


@pytest.mark.parametrize("name", ["gdc++", "kl_control", "ppo"])
def test_n_updates_and_n_more_are_twice_n(name: str, tmp_path: Path) -> None:
    model, aim = wanted(Constraint(says(2)))
    config = dataclasses.replace(CONFIG, method=name, samples=10 * 40, batch=40, check_every=2, beta_target=0.5)
    whole = moved(model, aim, config)
    moved(model, aim, config, checkpoints=Checkpoints(tmp_path, "align"), until=6)
    again = moved(model, aim, config, checkpoints=Checkpoints(tmp_path, "align"))
    assert torch.equal(whole.logits, again.logits)


def test_the_proposal_becomes_the_policy_when_that_is_closer() -> None:
    model, aim = wanted(Constraint(says(2)))
    off = moved(model, aim, dataclasses.replace(CONFIG, method="gdc"))
    never = moved(model, aim, dataclasses.replace(CONFIG, method="gdc", check_every=10**6))
    assert exact(off.speaker(), aim)[0] < exact(model, aim)[0]
    assert not torch.equal(off.logits, never.logits)


def rarely(model: TinyLM) -> TinyLM:
    """Return a model that hardly ever says 2."""
    logits = model.logits.clone()
    logits[:, 2] -= 9.0
    return dataclasses.replace(model, logits=logits)


def test_from_texts_of_another_model_a_feature_out_of_reach_is_learnt() -> None:
    often = tiny_lm(0)
    model = rarely(often)
    aim = solved(Target(model, (Constraint(says(2)),)), every_text(model))
    config = dataclasses.replace(CONFIG, samples=60 * 50, batch=50, learning_rate=0.3)
    with pytest.raises(TargetError, match="in a row had none"):
        moved(model, aim, config)
    helped = moved(model, aim, config, proposal=often)
    assert exact(model, aim)[0] > 10
    assert exact(helped.speaker(), aim)[0] < 0.2


def test_another_models_texts_teach_the_same_in_the_mean() -> None:
    """The policy is moved as by its own texts: E_q[p / q grad log pi] knows no q."""
    often = tiny_lm(0)
    model = rarely(often)
    aim = solved(Target(model, (Constraint(says(2)),)), every_text(model))
    config = dataclasses.replace(CONFIG, batch=40_000, samples=40_000)
    slopes = []
    for proposal in (None, often, tiny_lm(5)):
        policy = TablePolicy(often)
        lesson = Lesson(policy, aim, [START], config=config, ends=ENDS, proposal=proposal)
        loss = lesson.loss(0, 0)
        slopes.append(torch.autograd.grad(loss.total / loss.count, [policy.logits])[0])
    size = float(slopes[0].abs().max())
    assert size > 0.02
    for slope in slopes[1:]:
        torch.testing.assert_close(slope, slopes[0], atol=0.1 * size, rtol=0)


def test_a_proposal_is_left_when_the_policy_is_closer_and_a_fit_goes_on_with_it(tmp_path: Path) -> None:
    often = tiny_lm(0)
    model = rarely(often)
    aim = solved(Target(model, (Constraint(says(2)),)), every_text(model))
    config = dataclasses.replace(CONFIG, samples=20 * 100, batch=100, check_every=2, learning_rate=0.5)
    whole = moved(model, aim, config, proposal=often)
    moved(model, aim, config, proposal=often, checkpoints=Checkpoints(tmp_path, "align"), until=9)
    again = moved(model, aim, config, proposal=often, checkpoints=Checkpoints(tmp_path, "align"))
    assert torch.equal(whole.logits, again.logits)
    lesson = Lesson(whole, aim, [START], config=config, ends=ENDS, proposal=often)
    lesson.loss(0, 0)
    lesson.after(2)
    assert lesson.first is None


def test_methods_that_learn_from_their_own_texts_take_no_proposal() -> None:
    model, aim = wanted(Constraint(says(2)))
    with pytest.raises(ConfigError, match=r"learns from the policy's own texts; a proposal is for gdc, gdc\+\+"):
        moved(model, aim, dataclasses.replace(CONFIG, method="reinforce"), proposal=model)


def test_beta_follows_the_distance_it_is_steered_by() -> None:
    model, aim = wanted(Tilt(SIZE, 2.0))
    config = dataclasses.replace(CONFIG, method="kl_control", beta=1e-3, beta_target=0.2)
    policy = TablePolicy(model)
    done = align(policy, aim, [START], config=config, ends=ENDS)
    free = TablePolicy(model)
    align(free, aim, [START], config=dataclasses.replace(config, beta_target=0.0), ends=ENDS)
    assert done.beta > 1e-3
    assert exact(policy.speaker(), aim)[1] < exact(free.speaker(), aim)[1]


def test_every_prompt_has_its_own_partition_in_cdpg() -> None:
    model = tiny_lm(3)
    prompts = [Prompt("1", (0, 1)), Prompt("2", (0, 2))]
    aim = solved(Target(model, (Constraint(says(2)),)), every_text(model))
    config = dataclasses.replace(CONFIG, method="cdpg", per_prompt=20, batch=40, samples=60 * 40)
    policy = TablePolicy(model)
    align(policy, aim, prompts, config=config, ends=ENDS)
    speaker = policy.speaker()
    for prompt in prompts:
        texts = [text for text in model.enumerate_texts(LENGTH + 1) if text[1:2] == prompt.ids[1:]]
        base, now = (
            sum(math.exp(each.log_prob(text) - each.log_prob(prompt.ids)) for text in texts if 2 in text[2:])
            for each in (model, speaker)
        )
        assert now > base + 0.5 * (1 - base)


@pytest.mark.parametrize("name", ["fdpg-reverse_kl", "fdpg-reverse_chi2"])
def test_a_divergence_that_a_constraint_makes_infinite_is_refused(name: str) -> None:
    model, aim = wanted(Constraint(says(2)))
    with pytest.raises(ConfigError, match=r"is infinite as long as .* the constraint on says\(2\) forbids"):
        moved(model, aim, dataclasses.replace(CONFIG, method=name))


def test_learning_from_nothing_is_stopped() -> None:
    model, aim = wanted(Constraint(says(2)))
    silent = TinyLM(model.logits + torch.tensor([0.0, 0.0, -50.0]), model.order, eos=model.eos)
    policy = TablePolicy(silent)
    with pytest.raises(TargetError, match="10 batches of 200 texts in a row had none that keeps the constraints"):
        align(policy, aim, [START], config=dataclasses.replace(CONFIG, method="dpg++"), ends=ENDS)


def test_the_variance_of_the_gradient_is_that_of_single_texts() -> None:
    model, aim = wanted(Constraint(says(2)))
    policy, draws = TablePolicy(model), every_text(model)
    gains = torch.linspace(-1, 2, len(draws), dtype=torch.float64)
    each = []
    for row in range(len(draws)):
        (slope,) = torch.autograd.grad(gains[row] * policy.learn(draws.take(torch.tensor([row]))).sum(), policy.logits)
        each.append(slope.flatten())
    slopes = torch.stack(each)
    wanted_variance = float((slopes - slopes.mean(0)).square().sum(1).sum() / (len(draws) - 1))
    assert gradient_variance(policy, draws, gains, parts=15) == pytest.approx(wanted_variance)
    del aim
