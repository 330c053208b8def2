"""The trunk stands in for itself: it answers what the blocks would have said, to the last bit, or refuses."""

import pytest
import torch
from torch import Tensor

from collegium.models import Base, RowPlan
from collegium.models.trunk import Trunk
from collegium.testing.pico import random_adapter, random_base

KINDS = ("lora", "ia3", "bottleneck", "ffn", "prefix")
PLAN = RowPlan.one("new")


@pytest.fixture
def segments(tokens: Tensor) -> Tensor:
    """One row of one document, one of two, one with padding behind it."""
    made = torch.zeros_like(tokens)
    made[1, 9:] = 1
    made[2, 12:] = -1
    return made


def random_model(kind: str, **shape: object) -> Base:
    """A random base of a transformers model type that `random_base` does not know."""
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.for_model(kind, vocab_size=258, bos_token_id=0, eos_token_id=1, pad_token_id=None, **shape)
    return Base.from_model(AutoModelForCausalLM.from_config(config), name=kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_trunk_holds_on_every_architecture(bare, tokens, segments, kind):
    bare.attach("new", random_adapter(bare, 1, kind=kind, layers="top:1"))
    try:
        assert Trunk(bare, 1).refusal(tokens, segments=segments, plan=PLAN) is None
    finally:
        bare.detach("new")


def nats_and_slopes(base: Base, tokens: Tensor, segments: Tensor) -> list[Tensor]:
    weights = [tensor for part in base.adapter("new").values() for tensor in part.tensors.values()]
    for each in weights:
        each.requires_grad_().grad = None
    nats = base.token_nats(tokens, segments=segments, plan=PLAN)
    nats.sum().backward()
    return [nats.detach(), *(each.grad for each in weights if each.grad is not None)]


@pytest.mark.parametrize("kind", KINDS)
def test_losses_and_gradients_are_equal_to_the_last_bit(bare, tokens, segments, kind):
    bare.attach("new", random_adapter(bare, 1, kind=kind, layers="top:1"))
    try:
        trunk, want = Trunk(bare, 1), nats_and_slopes(bare, tokens, segments)
        states = trunk.states(tokens, segments=segments)
        with trunk.given(states):
            got = nats_and_slopes(bare, tokens, segments)
        with trunk.given(states.roll(1, 0)):
            other = nats_and_slopes(bare, tokens, segments)
    finally:
        bare.detach("new")
    assert len(got) > 2
    assert all(torch.equal(one, two) for one, two in zip(want, got, strict=True))
    assert not torch.equal(want[0], other[0]), "what is given is what is read"


def test_neither_half_runs_the_other(bare, tokens):
    ran: list[int] = []
    handles = [
        module.register_forward_hook(lambda *_, index=index: ran.append(index))
        for index, block in enumerate(bare.blocks)
        for module in list(block.modules())[-1:]
    ]
    trunk = Trunk(bare, 1)
    states = trunk.states(tokens)
    assert set(ran) == {0}
    ran.clear()
    with trunk.given(states):
        bare.hidden(tokens)
    assert set(ran) == {1}
    for each in handles:
        each.remove()


def test_the_model_is_as_it_was_afterwards(bare, tokens):
    before = bare.logprobs(tokens)
    trunk = Trunk(bare, 1)
    states = trunk.states(tokens)
    with pytest.raises(KeyError), trunk.given(states):
        raise KeyError
    assert all("forward" not in vars(block) for block in bare.blocks)
    assert torch.equal(bare.logprobs(tokens), before)


def test_a_forward_that_somebody_else_put_there_comes_back(tokens):
    base = random_base("llama", 3)
    theirs = base.blocks[0].forward
    base.blocks[0].forward = theirs
    Trunk(base, 1).states(tokens)
    with Trunk(base, 1).given(torch.zeros(3, 20, 64)):
        pass
    assert vars(base.blocks[0])["forward"] is theirs


def test_blocks_that_give_tuples_are_stood_in_for_by_tuples(tokens, segments):
    base = random_model("bloom", hidden_size=64, n_layer=3, n_head=4)
    base.attach("new", random_adapter(base, 1, layers="top:1"))
    trunk = Trunk(base, 2)
    assert trunk.refusal(tokens, segments=segments, plan=PLAN) is None
    assert trunk.lengths == {0: 2, 1: 2, 2: 2}


GEMMA = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "layer_types": ["sliding_attention", "full_attention"] * 2,
    "num_kv_shared_layers": 2,
    "vocab_size_per_layer_input": 258,
    "hidden_size_per_layer_input": 8,
}


def test_keys_shared_over_layers_are_refused(tokens, segments):
    base = random_model("gemma4_text", **GEMMA, global_head_dim=16)
    base.attach("new", random_adapter(base, 1, layers="top:1"))
    before = base.logprobs(tokens)
    said = Trunk(base, 3).refusal(tokens, segments=segments, plan=PLAN)
    assert said is not None
    assert "do not run without the lower ones" in said
    assert torch.equal(base.logprobs(tokens), before)


def test_several_states_a_token_are_refused(tokens, segments):
    more = {"laurel_rank": 4, "activation_sparsity_pattern": [0.0] * 4, "altup_num_inputs": 2}
    base = random_model("gemma3n_text", **GEMMA, **more)
    base.attach("new", random_adapter(base, 1, layers="top:1"))
    said = Trunk(base, 3).refusal(tokens, segments=segments, plan=PLAN)
    assert said is not None
    assert "not one for each token" in said or "do not run without" in said  # where shapes are checked


def test_what_upper_blocks_take_from_lower_ones_besides_is_found(tokens, segments):
    base = random_base("llama", 5)
    base.attach("new", random_adapter(base, 1, layers="top:1"))
    aside: list[Tensor] = []
    base.blocks[0].mlp.register_forward_hook(lambda module, inputs, output: aside.append(output))
    base.blocks[1].mlp.register_forward_hook(lambda module, inputs, output: output + aside[-1].roll(len(aside), 1))
    said = Trunk(base, 1).refusal(tokens, segments=segments, plan=PLAN)
    assert said is not None
    assert "take more from the lower ones than hidden states" in said


def test_what_is_dropped_at_random_or_trained_is_not_frozen():
    base = random_base("gpt2", 1)
    assert Trunk(base, 1).frozen
    base.blocks[0].train()
    assert not Trunk(base, 1).frozen
    base.model.eval()
    base.blocks[0].requires_grad_(True)
    assert not Trunk(base, 1).frozen
