"""The peers of V11 do the same work as ours: same weights, same texts, same rewards, same losses."""

from dataclasses import replace

import pytest
import torch

from collegium.bench import judge_training, rewards
from collegium.bench.timing import Timing
from collegium.bench.training import StepClock
from collegium.testing.pico import pico_base

peft = pytest.importorskip("peft")
trl = pytest.importorskip("trl")


@pytest.fixture(scope="module")
def sides():
    """Sixteen judges with a router, of whom PEFT has eight."""
    world = rewards.World.of(True)
    return world, rewards.PeftJudges(peft, world, 8)


def test_peft_gives_the_rewards_that_our_judges_give(sides):
    world, peer = sides
    said = world.routed(8).judge(world.samples, every=True, raw=True)
    torch.testing.assert_close(peer.every(), said.every, atol=1e-6, rtol=0)
    torch.testing.assert_close(peer.routed(), said.rewards, atol=1e-6, rtol=0)
    assert len(set(said.choice.tolist())) > 1
    apart = said.every[:, :, None] - said.every[:, None, :] + torch.eye(8)
    assert apart.abs().min() > 1e-4  # so that one judge is not taken for another
    assert rewards.largest_difference(world, 8, peer) < 1e-6


def test_two_passes_and_a_pass_a_judge_say_what_one_call_says(sides):
    world, _ = sides
    model = world.routed(4)
    said = model.judge(world.samples, every=True, raw=True)
    single = [world.alone(expert) for expert in world.judges[:4]]
    torch.testing.assert_close(rewards.two_passes(model, world.batch), said.rewards, atol=1e-6, rtol=0)
    torch.testing.assert_close(rewards.apart(single, world.batch), said.every, atol=1e-6, rtol=0)
    assert said.every.shape == (len(world.samples), 4)


def test_texts_are_equally_long_and_half_of_each_is_its_prompt(sides):
    world, _ = sides
    tokens = rewards.text_tokens(True)
    assert world.batch.lengths.tolist() == [tokens] * len(world.samples)
    assert world.batch.prompts.tolist() == [tokens // 2] * len(world.samples)


def test_tokenising_is_taken_off_our_calls_alone():
    seconds = {rewards.TOKENS: 1.0, rewards.ONE: 3.0, rewards.ROUTED: 4.0, rewards.EVERY: 9.0}
    passes = {rewards.TWO_PASSES: 4.0, rewards.APART: 16.0}
    timings = {name: Timing((least, least + 5)) for name, least in {**seconds, **passes}.items()}
    assert rewards.ratios_of(8, timings) == {
        "routed_8_over_one": 1.5,
        "two_passes_8_over_one": 2.0,
        "every_8_over_one": 4.0,
        "apart_8_over_one": 8.0,
        "tokenise_8_share_of_one": pytest.approx(1 / 3),
    }


@pytest.mark.recipe
@pytest.mark.parametrize("layers", ["all", "top:1"])
def test_both_fits_of_a_judge_see_the_same_loss_in_every_step(layers):
    base, config = pico_base(), replace(judge_training.pair_config(True), layers=layers)
    ours = judge_training.fit_ours(base, config)
    theirs = judge_training.TrlFit(peft, trl, base, config)
    for _ in range(2):  # the second fit starts anew
        assert theirs.run().losses == pytest.approx(ours.losses, abs=1e-5)
    assert len(set(ours.losses)) == 12
    assert ours.losses[-1] < ours.losses[0]
    trained = [name for name, each in theirs.model.named_parameters() if each.requires_grad and "lora" in name]
    assert any(".layers.0." in name for name in trained) is (layers == "all")


def test_the_first_reading_holds_every_pair_once():
    base, config = pico_base(), judge_training.pair_config(True)
    rows = judge_training.rows_of(judge_training.lesson_of(base, config), config)
    read = config.batch * judge_training.first_reading(config)
    assert read == config.train_pairs
    first = {tuple(each) for each in rows["chosen_ids"][:read]}
    assert len(first) == read
    assert len(rows["chosen_ids"]) == len(rows["rejected_ids"]) == 3 * read
    assert {tuple(each) for each in rows["chosen_ids"][read:]} == first
    assert {len(each) for each in (*rows["chosen_ids"], *rows["rejected_ids"])} == {config.text_tokens}


def test_the_first_step_is_timed_from_the_first_held_out_loss_on():
    clock = StepClock()
    clock.log(0, {"held_out_loss": 1.0})
    began = clock.started
    clock.log(1, {"loss": 1.0})
    clock.log(2, {"loss": 1.0})
    clock.log(2, {"held_out_loss": 1.0})
    assert clock.started == began > 0
    assert clock.between(0, 1) == clock.ends[0] - began
    assert clock.between(0, 2) == (clock.ends[1] - began) / 2
    assert clock.between(1, 2) == clock.ends[1] - clock.ends[0]


@pytest.mark.recipe
def test_a_fit_of_either_side_says_when_it_began():
    base, config = pico_base(), judge_training.pair_config(True, pairs=4)
    for clock in (judge_training.fit_ours(base, config), judge_training.TrlFit(peft, trl, base, config).run()):
        assert 0 < clock.started < clock.ends[0]
