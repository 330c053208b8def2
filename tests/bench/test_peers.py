"""PEFT's side of the benches does the same work as ours: same weights, same rows, same answers."""

import pytest
import torch

from collegium.bench import training
from collegium.bench.loading import nth_loads
from collegium.bench.mixed import loop_step, our_step, row_plan
from collegium.bench.models import peaked, save_adapters
from collegium.bench.peers import find_peer, next_logprobs, own_copy, peft_model, stepper
from collegium.models import RowPlan
from collegium.testing.pico import pico_base, random_adapter

peft = pytest.importorskip("peft")

PROMPTS = torch.randint(256, (4, 6), generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def sides(tmp_path_factory):
    """A base with two experts attached, and PEFT's model of the same."""
    base = pico_base()
    adapters = {name: random_adapter(base, number) for number, name in enumerate(("law", "code"))}
    peer = peft_model(peft, base, save_adapters(base, adapters, tmp_path_factory.mktemp("experts")))
    for name, adapter in adapters.items():
        base.attach(name, adapter)
    return base, peer


def test_peft_says_what_we_say(sides):
    base, peer = sides
    for place, name in enumerate(("law", "code")):
        ours = base.open_rows(PROMPTS.tolist(), RowPlan.one(name)).logprobs
        theirs = next_logprobs(peer, PROMPTS, adapter_names=[name] * 4)
        torch.testing.assert_close(theirs, ours, atol=1e-5, rtol=0)
        other = next_logprobs(peer, PROMPTS, adapter_names=[("code", "law")[place]] * 4)
        assert (other - ours).abs().max() > 0.1


def test_a_loop_over_adapters_says_what_a_mixed_batch_says(sides):
    _, peer = sides
    mixed, loop = stepper(peer, PROMPTS, adapter_names=["law", "code"] * 2), loop_step(peer, PROMPTS, ("law", "code"))
    for _ in range(2):
        torch.testing.assert_close(loop(), mixed(), atol=1e-5, rtol=0)


def test_a_row_speaks_through_its_own_expert_here_as_there(sides):
    base, peer = sides
    ours = our_step(base, PROMPTS, row_plan(("law", "code"), 4))
    theirs = stepper(peer, PROMPTS, adapter_names=["law", "code"] * 2)
    for _ in range(2):
        torch.testing.assert_close(theirs(), ours(), atol=1e-5, rtol=0)


def test_a_step_goes_on_where_the_last_one_ended():
    base = pico_base()
    step, first = stepper(base.model, PROMPTS), PROMPTS[:, :1]
    for count in (1, 2):
        whole = torch.cat([PROMPTS, *[first] * count], dim=1)
        torch.testing.assert_close(step(), next_logprobs(base.model, whole), atol=1e-5, rtol=0)


def test_a_copy_is_taken_before_anything_is_attached():
    base = pico_base()
    assert own_copy(base) is not base.model
    base.attach("law", random_adapter(base))
    with pytest.raises(AssertionError, match="slots along"):
        own_copy(base)


def test_a_peer_that_is_not_installed_is_none():
    assert find_peer("no_such_peer") is None
    assert find_peer("peft") is peft


def test_peaked_experts_have_one_strong_direction():
    part = next(iter(peaked(random_adapter(pico_base(), rank=4)).values()))
    values = torch.linalg.svdvals(part.delta())
    assert values[0] > 2.5 * values[1]


@pytest.mark.recipe
def test_both_fits_see_the_same_loss_in_every_step():
    base, config = pico_base(), training.fit_config(True, "all", steps=6)
    ours = training.fit_ours(base, config)
    theirs = training.PeftFit(peft, base, config)
    for _ in range(2):  # the second fit starts anew
        assert theirs.run().losses == pytest.approx(ours.losses, abs=1e-4)
    assert len(set(ours.losses)) == 6


@pytest.mark.recipe
def test_layers_of_the_top_are_the_only_ones_that_either_side_trains():
    base, config = pico_base(), training.fit_config(True, "top:1", steps=3)
    theirs = training.PeftFit(peft, base, config)
    assert theirs.run().losses == pytest.approx(training.fit_ours(base, config).losses, abs=1e-4)
    trained = [name for name, each in theirs.model.named_parameters() if each.requires_grad]
    assert trained
    assert all(".layers.1." in name for name in trained)


def test_the_windows_of_a_fit_are_read_three_times():
    base, config = pico_base(), training.fit_config(True, "all", steps=6)
    read = training.texts(base, config)
    objective = training.text_objective(base, RowPlan.one("base"), texts={"x": read}, config=config, label="x")
    assert len(objective.train) * 3 == config.steps * config.batch
    assert int(objective.train.segments.max()) == 0


@pytest.mark.recipe
def test_the_last_load_says_what_peft_says():
    loads = nth_loads(True, repeats=1)
    assert loads.largest_difference < 1e-5
    assert all(list(timings) == [1, 2, 4, 8] for timings in loads.timings.values())
