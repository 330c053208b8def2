"""Laws of attention's backward of ours: torch's forward to the last bit, gradients as near to float32 as torch's."""

import copy
import json

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.functional import scaled_dot_product_attention
from transformers import AutoModelForCausalLM
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from collegium.models import LoraWeights, PrefixWeights, RowPlan
from collegium.models.base import Base
from collegium.models.slots import attention
from collegium.ops.attention import attention_gradients
from collegium.testing.pico import random_adapter, random_base

BF16 = torch.bfloat16


class Module(nn.Module):
    """What transformers reads off an attention module."""

    def __init__(self, groups: int, *, causal: bool) -> None:
        super().__init__()
        self.num_key_value_groups, self.is_causal = groups, causal


def drawn(batch, heads, own, queries, keys, size, dtype=BF16):
    shapes = ((heads, queries), (own, keys), (own, keys))
    return [torch.randn(batch, *shape, size).to(dtype).requires_grad_() for shape in shapes]


def masks(batch, queries, keys):
    """Every kind of mask there is, by name."""
    lengths = torch.randint(1, keys + 1, (batch, 1, 1, 1))
    padded = (torch.arange(keys) < lengths).expand(batch, 1, queries, keys)
    blind = padded.clone()
    blind[0, 0, queries // 2] = False
    infinite = torch.zeros(blind.shape, dtype=BF16).masked_fill(~blind, float("-inf"))
    scores = (torch.randn(batch, 1, queries, keys) * 2).to(BF16)
    least = torch.zeros(1, 1, queries, keys, dtype=BF16).masked_fill(~blind[:1], torch.finfo(BF16).min)
    return {"none": None, "padded": padded, "blind": blind, "infinite": infinite, "scores": scores, "least": least}


def gradients(attend, module, inputs, mask, gradient, **options):
    said = attend(module, *inputs, mask, **options)[0]
    return said, torch.autograd.grad(said, inputs, gradient.to(said.dtype))


def exact(module, inputs, mask, gradient, **options):
    """The gradients by plain float64 products; torch's flash loses the sum of a row of the least numbers."""
    wide = [each.detach().double().requires_grad_() for each in inputs]
    mask = mask if mask is None or mask.dtype == torch.bool else mask.double()
    with sdpa_kernel(SDPBackend.MATH):
        return gradients(sdpa_attention_forward, module, wide, mask, gradient, **options)[1]


def distance(found, wanted):
    return [float((each.double() - want).norm() / want.norm()) for each, want in zip(found, wanted, strict=True)]


def check(module, inputs, mask, **options):
    """The law: the same forward, gradients no farther from the exact ones than torch's own, or nearly."""
    batch, heads, queries = inputs[0].shape[:3]
    gradient = torch.randn(batch, queries, heads, inputs[2].shape[3]).to(BF16)
    said, found = gradients(attention.attend, module, inputs, mask, gradient, **options)
    want, torchs = gradients(sdpa_attention_forward, module, inputs, mask, gradient, **options)
    assert "_Attention" in type(said.grad_fn).__name__, "ours was not used"
    assert torch.equal(said, want)
    wanted = exact(module, inputs, mask, gradient, **options)
    for ours, theirs in zip(distance(found, wanted), distance(torchs, wanted), strict=True):
        assert ours < 1.1 * theirs + 1e-4


@pytest.mark.parametrize("name", masks(2, 4, 4))
@pytest.mark.parametrize("sizes", [(2, 4, 4, 17, 17, 16), (3, 6, 2, 40, 40, 8), (2, 4, 1, 33, 50, 32)])
def test_gradients_under_every_mask(sizes, name):
    batch, heads, own, queries, keys, _ = sizes
    check(Module(heads // own, causal=False), drawn(*sizes), masks(batch, queries, keys)[name])


@pytest.mark.parametrize("sizes", [(2, 4, 4, 2, 2, 8), (1, 6, 2, 190, 190, 16), (9, 6, 2, 96, 96, 64)])
def test_gradients_of_a_causal_layer(sizes):
    check(Module(sizes[1] // sizes[2], causal=True), drawn(*sizes), None, scaling=0.3)
    check(Module(sizes[1] // sizes[2], causal=False), drawn(*sizes), None, is_causal=True)


def test_a_query_that_sees_nothing_has_no_gradient():
    module, inputs = Module(1, causal=False), drawn(2, 3, 3, 10, 10, 8)
    said, found = gradients(attention.attend, module, inputs, masks(2, 10, 10)["blind"], torch.randn(2, 10, 3, 8))
    assert not said[0, 5].any()
    assert not found[0][0, :, 5].any()
    assert all(each.isfinite().all() for each in found)


def test_in_float64_the_gradients_are_those_of_torch():
    query, key, value = inputs = drawn(3, 6, 2, 20, 20, 8, dtype=torch.float64)
    gradient = torch.randn(3, 6, 20, 8, dtype=torch.float64)
    said = scaled_dot_product_attention(query, key, value, is_causal=True, enable_gqa=True)
    wanted = torch.autograd.grad(said, inputs, gradient)
    found = attention_gradients(gradient, *(each.detach() for each in inputs), scale=8**-0.5, causal=True)
    for each, want in zip(found, wanted, strict=True):
        torch.testing.assert_close(each, want, atol=1e-5, rtol=1e-5)


def _forgets_the_sum(gradient, query, key, value, mask=None, *, scale, causal=False):
    """Wrong on purpose: dS = P dP."""
    scores = query.float() @ key.float().mT * scale
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), float("-inf"))
    said = scores.softmax(-1)
    change = said * (gradient.float() @ value.float().mT) * scale
    wide = change @ key.float(), change.mT @ query.float(), said.mT @ gradient.float()
    return tuple(each.to(query.dtype) for each in wide)


def _sees_ahead(gradient, query, key, value, mask=None, *, scale, causal=False):
    """Wrong on purpose: a causal layer's gradient without its mask."""
    return attention_gradients(gradient, query, key, value, mask, scale=scale)


@pytest.mark.parametrize("wrong", [_forgets_the_sum, _sees_ahead])
def test_a_wrong_backward_is_caught(monkeypatch, wrong):
    monkeypatch.setattr(attention, "attention_gradients", wrong)
    with pytest.raises(AssertionError, match=r"ours|1\.1"):
        check(Module(1, causal=True), drawn(2, 3, 3, 20, 20, 8), None)


OTHER = {
    "float32": {"dtype": torch.float32},
    "float64": {"dtype": torch.float64},
    "no gradient": {"grad": False},
    "nothing trained": {"trained": False},
    "long": {"tokens": 192},
    "one query": {"tokens": 1},
    "dropout": {"dropout": 0.1},
    "a mask that is trained": {"mask": True},
}


@pytest.mark.parametrize("case", OTHER)
def test_every_other_case_is_torchs_own(monkeypatch, case):
    def refuse(*args):
        raise AssertionError("ours was used")

    monkeypatch.setattr(attention._Attention, "apply", refuse)
    asked = {"dtype": BF16, "grad": True, "trained": True, "tokens": 12, "dropout": 0.0, "mask": False, **OTHER[case]}
    tokens = asked["tokens"]
    inputs = [each.requires_grad_(asked["trained"]) for each in drawn(2, 2, 2, tokens, tokens, 8, asked["dtype"])]
    mask = torch.zeros(2, 1, tokens, tokens, dtype=BF16, requires_grad=True) if asked["mask"] else None
    with torch.set_grad_enabled(asked["grad"]):
        torch.manual_seed(1)
        said = attention.attend(Module(1, causal=True), *inputs, mask, dropout=asked["dropout"])[0]
        torch.manual_seed(1)
        want = sdpa_attention_forward(Module(1, causal=True), *inputs, mask, dropout=asked["dropout"])[0]
    assert torch.equal(said, want)


def trained(base, kind):
    """An expert whose tensors ask for gradients."""
    if kind == "lora":
        drawn = random_adapter(base, 1, rank=4)
        return {p: LoraWeights(w.a.requires_grad_(), w.b.requires_grad_(), w.scale) for p, w in drawn.items()}
    places = {path: site.shape for path, site in base.sites.items() if site.what == "attention"}
    parts = {path: [torch.randn(heads, 3, size) for _ in range(2)] for path, (heads, size) in places.items()}
    return {path: PrefixWeights(*(each.requires_grad_() for each in pair)) for path, pair in parts.items()}


def weights(adapter):
    return [tensor for part in adapter.values() for tensor in vars(part).values() if isinstance(tensor, torch.Tensor)]


def in_bfloat16(architecture="llama"):
    made = random_base(architecture)
    return Base.from_model(copy.deepcopy(made.model).to(BF16), made.tokenizer, name="pico")


def of_run(base, name, tokens):
    """The hidden states of a trained run and the gradients of the expert in it."""
    hidden = base.hidden(tokens, plan=RowPlan.one(name))
    loss = hidden.float().square().mean()
    return hidden.detach(), torch.autograd.grad(loss, weights(base.adapter(name)))


@pytest.mark.parametrize("kind", ["lora", "prefix"])
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gemma3"])
def test_training_an_expert_uses_it_and_leaves_no_trace(monkeypatch, architecture, kind, tokens):
    base, used = in_bfloat16(architecture), []
    told = json.dumps(base.config.to_dict(), default=str)
    base.attach("it", trained(base, kind))
    with monkeypatch.context() as patch:
        patch.setattr(attention, "_FASTER_FROM_TOKENS", 0)
        want, torchs = of_run(base, "it", tokens)
    ours = attention.attention_gradients
    monkeypatch.setattr(attention, "attention_gradients", lambda *a, **k: used.append(1) or ours(*a, **k))
    said, found = of_run(base, "it", tokens)
    assert len(used) == len(base.blocks)
    assert torch.equal(said, want)
    for each, theirs in zip(found, torchs, strict=True):
        assert float((each - theirs).norm()) < 0.05 * float(theirs.norm()) + 1e-7
    assert json.dumps(base.config.to_dict(), default=str) == told
    base.detach("it")
    assert base.config._attn_implementation == "sdpa"


def test_a_model_saved_in_a_trained_run_opens_in_plain_transformers(tmp_path, tokens):
    base = in_bfloat16()
    base.attach("it", trained(base, "lora"))
    with base.running(RowPlan.one("it").rows(len(tokens))):
        assert base.config._attn_implementation == "collegium"
        base.model.save_pretrained(tmp_path)
    assert "collegium" not in (tmp_path / "config.json").read_text()
    assert AutoModelForCausalLM.from_pretrained(tmp_path).config._attn_implementation == "sdpa"


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_a_model_that_computes_parts_anew_keeps_its_own(tokens):
    base = in_bfloat16()
    base.model.requires_grad_(True).train()
    base.model.gradient_checkpointing_enable()
    base.hidden(tokens).float().square().mean().backward()
    assert all(weight.grad is not None for weight in base.inner.parameters())
