"""Laws of slots and rows: what experts do is what merged weights would do, and they leave no trace."""

import copy

import pytest
import torch
from torch import nn

from collegium.core.errors import IncompatibleExpert, NameTaken, RoutingError, UnknownName
from collegium.models import Base, Group, LoraWeights, RowPlan
from collegium.models.slots.stacks import LowRankStack
from collegium.testing.pico import pico_base, random_adapter

EXACT, CLOSE = 1e-6, 1e-5


def merged(base: Base, parts: dict[str, float], adapters: dict) -> nn.Module:
    """The slow reference: a copy of the model whose weight matrices carry the weighted sum of deltas."""
    for name in base.attached:
        base.detach(name)
    model = copy.deepcopy(base.model)
    for name, weight in parts.items():
        for path, lora in adapters[name].items():
            site = model.get_submodule(path)
            delta = weight * lora.delta()
            with torch.no_grad():
                site.weight += delta if isinstance(site, nn.Linear) else delta.T
    return model


def reference(base, parts, adapters, tokens):
    with torch.no_grad():
        return merged(base, parts, adapters)(input_ids=tokens).logits.log_softmax(-1)


@pytest.fixture
def adapters(bare):
    return {"deep": random_adapter(bare, 1, rank=4), "top": random_adapter(bare, 2, rank=3, layers="top:1")}


def attach_all(base, adapters):
    for name, adapter in adapters.items():
        base.attach(name, adapter)


def test_the_base_group_is_the_base_bit_for_bit(bare, adapters, tokens):
    alone = bare.logprobs(tokens)
    attach_all(bare, adapters)
    assert torch.equal(bare.logprobs(tokens), alone)
    assert torch.equal(bare.logprobs_rows(tokens, plan=RowPlan.each(("base", "base")))[1], alone)
    for name in adapters:
        bare.detach(name)


def test_detaching_leaves_no_trace(bare, adapters, tokens):
    names, state = list(bare.model.state_dict()), {key: value.clone() for key, value in bare.model.state_dict().items()}
    alone = bare.logprobs(tokens)
    attach_all(bare, adapters)
    assert list(bare.model.state_dict()) == names
    bare.logprobs_rows(tokens, plan=RowPlan.each(("deep", "top")))
    for name in adapters:
        bare.detach(name)
    assert torch.equal(bare.logprobs(tokens), alone)
    assert all(torch.equal(state[key], value) for key, value in bare.model.state_dict().items())
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in bare.model.modules())


def test_one_detached_expert_leaves_the_other(bare, adapters, tokens):
    attach_all(bare, adapters)
    before = bare.logprobs_rows(tokens, plan=RowPlan.one("top"))
    bare.detach("deep")
    assert torch.equal(bare.logprobs_rows(tokens, plan=RowPlan.one("top")), before)
    bare.attach("deep", adapters["top"])
    assert torch.equal(bare.logprobs_rows(tokens, plan=RowPlan.one("deep")), before)
    for name in adapters:
        bare.detach(name)


@pytest.mark.parametrize("name", ["deep", "top"])
def test_an_expert_is_the_model_with_its_delta(bare, adapters, tokens, name):
    attach_all(bare, adapters)
    got = bare.logprobs_rows(tokens, plan=RowPlan.one(name))[0]
    want = reference(bare, {name: 1.0}, adapters, tokens)
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)


def test_a_blend_is_the_model_with_the_weighted_sum(bare, adapters, tokens):
    attach_all(bare, adapters)
    plan = RowPlan.blend(("deep", "base", "top"), torch.tensor([[[0.3, 0.1, 0.6]]]))
    got = bare.logprobs_rows(tokens, plan=plan)[0]
    want = reference(bare, {"deep": 0.3, "top": 0.6}, adapters, tokens)
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)


def test_a_group_without_weights_adds_its_experts(bare, adapters, tokens):
    attach_all(bare, adapters)
    got = bare.logprobs_rows(tokens, plan=RowPlan((Group(("deep", "top")),)))[0]
    want = reference(bare, {"deep": 1.0, "top": 1.0}, adapters, tokens)
    torch.testing.assert_close(got, want, atol=CLOSE, rtol=0)


@pytest.mark.parametrize(("hot", "name"), [(0, "deep"), (1, "top")])
def test_a_one_hot_blend_is_that_expert_alone(base, tokens, hot, name):
    weights = torch.nn.functional.one_hot(torch.tensor([[hot]]), 2).float()
    got = base.logprobs_rows(tokens, plan=RowPlan.blend(("deep", "top"), weights))
    torch.testing.assert_close(got, base.logprobs_rows(tokens, plan=RowPlan.one(name)), atol=2 * EXACT, rtol=0)


def test_a_blend_of_nothing_is_the_base(base, tokens):
    got = base.logprobs_rows(tokens, plan=RowPlan.blend(("deep", "top"), torch.zeros(1, 1, 2)))
    torch.testing.assert_close(got[0], base.logprobs(tokens), atol=EXACT, rtol=0)
    assert RowPlan.blend(("base",), torch.ones(1, 1, 1)).signature == ((),)


def test_each_row_of_a_batch_has_its_own_blend(base, tokens):
    weights = torch.tensor([[[1.0, 0.0]], [[0.2, 0.7]], [[0.0, 0.0]]])
    got = base.logprobs_rows(tokens, plan=RowPlan.blend(("deep", "top"), weights))[0]
    for row in range(3):
        alone = RowPlan.blend(("deep", "top"), weights[row : row + 1])
        want = base.logprobs_rows(tokens[row : row + 1], plan=alone)[0, 0]
        torch.testing.assert_close(got[row], want, atol=CLOSE, rtol=0)


def test_weights_of_later_positions_move_nothing_earlier(base, tokens):
    weights = torch.rand(3, 20, 2)
    other = weights.clone()
    other[:, 12:] = 0
    got, changed = (
        base.logprobs_rows(tokens, plan=RowPlan.blend(("deep", "top"), each))[0] for each in (weights, other)
    )
    torch.testing.assert_close(got[:, :12], changed[:, :12], atol=EXACT, rtol=0)
    assert float((got[:, 12:] - changed[:, 12:]).abs().max()) > 1e-2


def test_groups_are_as_if_run_one_after_another(base, tokens):
    names = ("top", "base", "deep", "top")
    got = base.logprobs_rows(tokens, plan=RowPlan.each(names))
    for group, name in enumerate(names):
        want = base.logprobs_rows(tokens, plan=RowPlan.one(name))[0]
        torch.testing.assert_close(got[group], want, atol=CLOSE, rtol=0)


def test_the_shared_trunk_equals_a_batch_of_copies(base, tokens, monkeypatch):
    """`top` leaves the first block to a trunk of 3 rows; with `deep` beside it all blocks see 3 rows a group."""
    seen = []
    hook = base.blocks[0].register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(len(args[0] if args else kwargs["hidden_states"])), with_kwargs=True
    )
    shared = base.logprobs_rows(tokens, plan=RowPlan.each(("top", "base")))
    copies = base.logprobs_rows(torch.cat([tokens, tokens]), plan=RowPlan.one("top"))
    hook.remove()
    assert seen == [3, 6]
    torch.testing.assert_close(shared[0], copies[0, :3], atol=CLOSE, rtol=0)


def test_mixed_groups_of_blends_and_single_experts(base, tokens):
    weights = torch.rand(3, 20, 2)
    plan = RowPlan((Group(("deep", "top"), weights), Group(("top",)), Group(), Group(("deep",), weights[:1, :1, :1])))
    got = base.logprobs_rows(tokens, plan=plan)
    for index, group in enumerate(plan.groups):
        want = base.logprobs_rows(tokens, plan=RowPlan((group,)))[0]
        torch.testing.assert_close(got[index], want, atol=CLOSE, rtol=0)


def test_forgetting_the_weights_breaks_the_law_of_blends(base, tokens, monkeypatch):
    plan = RowPlan.blend(("deep", "top"), torch.tensor([[[1.0, 0.0]]]))
    want = base.logprobs_rows(tokens, plan=RowPlan.one("deep"))
    monkeypatch.setattr(LowRankStack, "weighted", lambda self, thin, weights: thin)
    assert float((base.logprobs_rows(tokens, plan=plan) - want).abs().max()) > 1e-2


def test_gradients_reach_the_experts_and_are_those_of_merged_weights(bare, tokens):
    adapter = {
        path: LoraWeights(lora.a.requires_grad_(), lora.b.requires_grad_(), lora.scale)
        for path, lora in random_adapter(bare, 5, rank=2).items()
    }
    bare.attach("new", adapter)
    bare.token_nats(tokens, plan=RowPlan.one("new")).sum().backward()
    assert all(each.a.grad is not None and each.b.grad is not None for each in adapter.values())
    assert all(weight.grad is None for weight in bare.model.parameters())
    model = merged(bare, {"new": 1.0}, {"new": adapter}).requires_grad_(True)
    logits = model(input_ids=tokens).logits[:, :-1].flatten(0, 1)
    nn.functional.cross_entropy(logits, tokens[:, 1:].flatten(), reduction="sum").backward()
    for path, lora in adapter.items():
        site = model.get_submodule(path)
        slope = site.weight.grad if isinstance(site, nn.Linear) else site.weight.grad.T
        torch.testing.assert_close(lora.a.grad, lora.scale * lora.b.detach().T @ slope, atol=1e-4, rtol=1e-3)
        torch.testing.assert_close(lora.b.grad, lora.scale * slope @ lora.a.detach().T, atol=1e-4, rtol=1e-3)


def test_weights_that_are_trained_are_read_anew(bare, tokens):
    adapter = {
        path: LoraWeights(lora.a.requires_grad_(), lora.b.requires_grad_())
        for path, lora in random_adapter(bare, 5).items()
    }
    bare.attach("new", adapter)
    before = bare.score_rows(tokens, plan=RowPlan.one("new"))
    with torch.no_grad():
        for lora in adapter.values():
            lora.b.zero_()
    after = bare.score_rows(tokens, plan=RowPlan.one("new"))
    assert not torch.equal(before, after)
    torch.testing.assert_close(after[0], bare.score(tokens), atol=EXACT, rtol=0)
    bare.detach("new")


def test_gradients_reach_blend_weights(base, tokens):
    weights = torch.full((1, 1, 2), 0.5, requires_grad=True)
    base.token_nats(tokens, plan=RowPlan.blend(("deep", "top"), weights)).sum().backward()
    assert weights.grad is not None
    assert bool((weights.grad != 0).all())


def test_bfloat16_base_takes_float32_experts(tokens):
    from transformers import AutoModelForCausalLM

    plain = pico_base()
    base = Base.from_model(AutoModelForCausalLM.from_config(plain.config, dtype=torch.bfloat16), name="half")
    adapter = random_adapter(base, 1)
    assert next(iter(adapter.values())).a.dtype == torch.float32
    base.attach("law", adapter)
    got = base.score_rows(tokens, plan=RowPlan.each(("law", "base")))
    assert got.dtype == torch.float32
    assert float((got[0] - got[1]).abs().max()) > 1e-2


def test_an_expert_of_another_base_is_refused(bare):
    path, (inputs, outputs) = next(iter(bare.linear_sites().items()))
    wide = {path: LoraWeights(torch.zeros(2, inputs + 1), torch.zeros(outputs, 2))}
    with pytest.raises(IncompatibleExpert, match=f"maps {inputs + 1} inputs"):
        bare.attach("wide", wide)
    lost = {path + "x": LoraWeights(torch.zeros(2, inputs), torch.zeros(outputs, 2))}
    with pytest.raises(IncompatibleExpert, match="Did you mean"):
        bare.attach("lost", lost)
    with pytest.raises(IncompatibleExpert, match="rank 2 and B has rank 3"):
        LoraWeights(torch.zeros(2, inputs), torch.zeros(outputs, 3))
    assert bare.attached == ()


def test_names_are_unique_and_known(pico, tokens):
    adapter = random_adapter(pico)
    pico.attach("law", adapter)
    pico.attach("law", adapter)
    with pytest.raises(NameTaken, match="another expert"):
        pico.attach("law", random_adapter(pico))
    with pytest.raises(NameTaken, match="base model's own"):
        pico.attach("base", adapter)
    with pytest.raises(UnknownName, match="Did you mean 'law'"):
        pico.score_rows(tokens, plan=RowPlan.one("laws"))
    with pytest.raises(UnknownName):
        pico.detach("code")


def test_plans_are_checked():
    with pytest.raises(RoutingError, match="one weight per expert"):
        Group(("a", "b"), torch.ones(1, 1, 1))
    with pytest.raises(RoutingError, match="each expert once"):
        Group(("a", "a"))
    with pytest.raises(RoutingError, match="at least one group"):
        RowPlan(())
    with pytest.raises(RoutingError, match="one weight per name"):
        RowPlan.blend(("a", "b"), torch.ones(1, 1, 1))


def test_many_plans_do_not_fill_the_memory(pico, tokens):
    for index in range(20):
        pico.attach(f"e{index}", random_adapter(pico, index))
        pico.score_rows(tokens, plan=RowPlan.one(f"e{index}"))
    assert len(pico._slots._plans) <= 8
