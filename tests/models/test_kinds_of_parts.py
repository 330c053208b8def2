"""Laws of parts: every kind does what the changed model would do; any mix of kinds in a batch is each row alone."""

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers import DynamicCache

from collegium.core.errors import IncompatibleExpert, ResourceError
from collegium.models import (
    KINDS,
    NOBODY,
    BottleneckWeights,
    FfnWeights,
    Group,
    Ia3Weights,
    LoraWeights,
    PrefixWeights,
    RowPlan,
    Rows,
)
from collegium.models.slots.stacks import LowRankStack, PrefixStack, RescaleStack
from collegium.testing.pico import pico_base, random_adapter, random_base

CLOSE = 1e-5


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def make(base, kind, seed=0):
    """A strong random expert of a kind."""
    adapter = {}
    for number, (path, site) in enumerate(base.sites.items()):
        key = 100 * seed + number
        if site.what == "linear" and kind == "lora":
            inputs, outputs = site.shape
            adapter[path] = LoraWeights(drawn(3, inputs, seed=key) / inputs**0.5, drawn(outputs, 3, seed=key + 7), 0.5)
        elif site.what == "linear" and kind == "ia3":
            side = "input" if number % 2 else "output"
            size = site.shape[0] if side == "input" else site.shape[1]
            adapter[path] = Ia3Weights(1 + drawn(size, seed=key) / 2, side)
        elif site.what == "feed_forward" and kind == "bottleneck":
            size = site.shape[0]
            down, up = drawn(5, size, seed=key) / size**0.5, drawn(size, 5, seed=key + 7)
            adapter[path] = BottleneckWeights(down, drawn(5, seed=key + 8), up, drawn(size, seed=key + 9), 0.7)
        elif site.what == "feed_forward" and kind == "ffn":
            block = base.model.get_submodule(path)
            adapter[path] = FfnWeights(
                {name: value + drawn(*value.shape, seed=key) / 4 for name, value in block.named_parameters()}
            )
        elif site.what == "attention" and kind == "prefix":
            heads, size = site.shape
            adapter[path] = PrefixWeights(drawn(heads, 4, size, seed=key), drawn(heads, 4, size, seed=key + 7))
    return adapter


class Beside(nn.Module):
    """A block with a bottleneck beside it."""

    def __init__(self, block, part):
        super().__init__()
        self.block, self.part = block, part

    def forward(self, x):
        part = self.part
        return self.block(x) + part.scale * (torch.relu(x @ part.down.T + part.down_bias) @ part.up.T + part.up_bias)


def change(model, path, part):
    site = model.get_submodule(path)
    with torch.no_grad():
        match part:
            case LoraWeights():
                site.weight += part.delta() if isinstance(site, nn.Linear) else part.delta().T
            case Ia3Weights():
                out_axis = 0 if isinstance(site, nn.Linear) else 1
                axis = out_axis if part.side == "output" else 1 - out_axis
                site.weight *= part.factors[:, None] if axis == 0 else part.factors
                if part.side == "output" and site.bias is not None:
                    site.bias *= part.factors
            case FfnWeights():
                site.load_state_dict(part.tensors)
            case BottleneckWeights():
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, Beside(site, part))


@torch.no_grad()
def changed(base, adapter, tokens):
    """The slow reference: a copy of the model with the parts in it."""
    model = copy.deepcopy(base.model)
    prefixes = [part for part in adapter.values() if isinstance(part, PrefixWeights)]
    if not prefixes:
        for path, part in adapter.items():
            change(model, path, part)
        return model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
    cache, batch = DynamicCache(), len(tokens)
    for layer, part in enumerate(prefixes):
        cache.update(part.keys.expand(batch, -1, -1, -1), part.values.expand(batch, -1, -1, -1), layer)
    positions = torch.arange(tokens.shape[1]).expand(batch, -1)
    return model(input_ids=tokens, past_key_values=cache, position_ids=positions).logits.log_softmax(-1)


@pytest.fixture
def tokens():
    return torch.randint(0, 250, (3, 12), generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3"])
def test_an_expert_of_any_kind_is_the_changed_model(architecture, kind, tokens):
    if architecture == "gemma3" and kind == "prefix":
        tokens = tokens[:, :4]  # the reference's prefix counts as text in transformers' sliding window of 8
    base = random_base(architecture)
    adapter = make(base, kind)
    want, alone = changed(base, adapter, tokens), base.logprobs(tokens)
    base.attach("it", adapter)
    got = base.logprobs_rows(tokens, plan=RowPlan.one("it"))[0]
    torch.testing.assert_close(got, want, atol=5 * CLOSE, rtol=0)
    assert float((want - alone).abs().max()) > 1e-2
    assert torch.equal(base.logprobs(tokens), alone)
    base.detach("it")
    assert torch.equal(base.logprobs(tokens), alone)
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in base.model.modules())
    assert base.model.config._attn_implementation != "collegium"


@pytest.fixture(scope="module")
def crowd():
    base = pico_base()
    for number, kind in enumerate(KINDS):
        base.attach(kind, make(base, kind, seed=number))
        base.attach(f"{kind}-2", make(base, kind, seed=number + 10))
    base.attach("top", random_adapter(base, 3, rank=7, layers="top:1"))
    return base


def test_a_mixed_batch_is_each_row_alone(crowd, tokens):
    names = (*KINDS, *(f"{kind}-2" for kind in KINDS), "top")
    texts = torch.randint(0, 250, (len(names) + 1, 10), generator=torch.Generator().manual_seed(2))
    index = torch.tensor([[place, (place * 3 + 1) % len(names)] for place in range(len(names))] + [[NOBODY, NOBODY]])
    index[2, 1] = index[5, 0] = NOBODY
    weights = torch.rand(len(names) + 1, 10, 2, generator=torch.Generator().manual_seed(3))
    together = crowd.logprobs_rows(texts, plan=RowPlan((Group(names, weights, index),)))[0]
    for row, places in enumerate(index.tolist()):
        own = [(names[place], weights[row, :, column]) for column, place in enumerate(places) if place != NOBODY]
        group = Group(tuple(name for name, _ in own), torch.stack([w for _, w in own], -1)[None] if own else None)
        alone = crowd.logprobs_rows(texts[row : row + 1], plan=RowPlan((group,)))[0, 0]
        torch.testing.assert_close(together[row], alone, atol=5 * CLOSE, rtol=0)


def test_rows_may_read_any_text(crowd, tokens):
    names = ("lora", "top", "ffn", "prefix")
    text, index = torch.tensor([2, 0, 0, 1, 2]), torch.tensor([[0], [1], [NOBODY], [2], [3]])
    rows = Rows(names, 3, text, index)
    hidden = crowd.hidden(tokens, plan=rows)
    for row, (which, place) in enumerate(zip(text.tolist(), index[:, 0].tolist(), strict=True)):
        plan = RowPlan.one("base" if place == NOBODY else names[place])
        want = crowd.hidden(tokens[which : which + 1], plan=plan)[0]
        torch.testing.assert_close(hidden[row], want, atol=5 * CLOSE, rtol=0)


def test_weights_may_differ_from_block_to_block(crowd, tokens):
    weights = torch.zeros(2, 1, 1, 2)
    weights[0, ..., 0], weights[1, ..., 1] = 0.5, 1.5
    got = crowd.logprobs_rows(tokens, plan=RowPlan((Group(("lora", "lora-2"), weights),)))[0]
    first, second = crowd.adapter("lora"), crowd.adapter("lora-2")
    adapter = {}
    for path, site in crowd.sites.items():
        if site.what == "linear":
            part, weight = (first[path], 0.5) if site.block == 0 else (second[path], 1.5)
            adapter[path] = LoraWeights(part.a, part.b, weight * part.scale)
    torch.testing.assert_close(got, changed(crowd, adapter, tokens), atol=5 * CLOSE, rtol=0)


def test_rescaling_mixes_as_one_plus_the_weighted_changes(crowd, tokens):
    weights = torch.tensor([[[0.3, -0.6]]])
    got = crowd.logprobs_rows(tokens, plan=RowPlan((Group(("ia3", "ia3-2"), weights),)))[0]
    first, second = crowd.adapter("ia3"), crowd.adapter("ia3-2")
    adapter = {
        path: Ia3Weights(1 + 0.3 * (part.factors - 1) - 0.6 * (second[path].factors - 1), part.side)
        for path, part in first.items()
    }
    torch.testing.assert_close(got, changed(crowd, adapter, tokens), atol=5 * CLOSE, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_weight_one_is_the_expert_and_weight_zero_the_base(crowd, tokens, kind):
    names = (kind, f"{kind}-2")
    got = crowd.logprobs_rows(tokens, plan=RowPlan.blend(names, torch.tensor([[[1.0, 0.0]]])))[0]
    torch.testing.assert_close(got, crowd.logprobs_rows(tokens, plan=RowPlan.one(kind))[0], atol=5 * CLOSE, rtol=0)
    nothing = crowd.logprobs_rows(tokens, plan=RowPlan.blend(names, torch.zeros(1, 1, 2)))[0]
    torch.testing.assert_close(nothing, crowd.logprobs(tokens), atol=5 * CLOSE, rtol=0)


@pytest.mark.parametrize(
    ("kind", "owner", "method", "broken"),
    [
        ("lora", LowRankStack, "weighted", lambda self, thin, weights: thin),
        ("bottleneck", LowRankStack, "weighted", lambda self, thin, weights: thin),
        ("ia3", RescaleStack, "factors", lambda self, weights: 1 + self.changes.sum(1, keepdim=True)),
        ("prefix", PrefixStack, "scores", lambda self, weights: self.open[:, None, None]),
    ],
)
def test_forgetting_the_weights_breaks_the_law(crowd, tokens, monkeypatch, kind, owner, method, broken):
    want = crowd.logprobs(tokens)
    monkeypatch.setattr(owner, method, broken)
    plan = RowPlan.blend((kind, f"{kind}-2"), torch.zeros(1, 1, 2))
    assert float((crowd.logprobs_rows(tokens, plan=plan)[0] - want).abs().max()) > 1e-2


@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_the_slow_reference(tokens, kind):
    base = pico_base()
    adapter = make(base, kind)
    leaves = [tensor.requires_grad_() for part in adapter.values() for tensor in part.tensors.values()]
    base.attach("it", adapter)
    plan = RowPlan.blend(("it",), torch.ones(1, 1, 1))
    nats = base.token_nats(tokens, plan=plan).sum()
    slopes = torch.autograd.grad(nats, leaves)
    place = max(range(len(slopes)), key=lambda number: float(slopes[number].abs().max()))
    leaf, slope = leaves[place], slopes[place]
    spot = int(slope.abs().argmax())
    step = 1e-2 / float(slope.abs().max())
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            leaf.view(-1)[spot] += sign * step
            values.append(float(base.token_nats(tokens, plan=plan).double().sum()))
            leaf.view(-1)[spot] -= sign * step
    assert (values[0] - values[1]) / (2 * step) == pytest.approx(float(slope.reshape(-1)[spot]), rel=0.05)
    assert all(bool(slope.isfinite().all()) for slope in slopes)
    assert sum(bool((slope != 0).any()) for slope in slopes) == len(slopes)


def test_parts_that_do_not_fit_are_refused_by_name():
    base = pico_base()
    path, site = next((path, site) for path, site in base.sites.items() if site.what == "attention")
    with pytest.raises(IncompatibleExpert, match="the prefix has"):
        base.attach("it", {path: PrefixWeights(torch.zeros(1, 2, site.shape[1]), torch.zeros(1, 2, site.shape[1]))})
    with pytest.raises(IncompatibleExpert, match="'ia3' has no place"):
        base.attach("it", {path: Ia3Weights(torch.ones(4))})


def test_experts_are_read_on_first_use_and_the_oldest_leaves(tokens):
    base = pico_base()
    adapters = {name: random_adapter(base, number, rank=4) for number, name in enumerate("abcd")}
    wanted = {}
    for name, adapter in adapters.items():
        base.attach(name, adapter)
        wanted[name] = base.score_rows(tokens, plan=RowPlan.one(name))
        base.detach(name)
    read = []
    for name, adapter in adapters.items():
        base.offer(name, lambda name=name, adapter=adapter: (read.append(name), adapter)[1])
    assert read == []
    size = sum(tensor.numel() * 4 for part in adapters["a"].values() for tensor in part.tensors.values())
    base.expert_memory_bytes = 2 * size
    for name in "abacd":
        assert torch.equal(base.score_rows(tokens, plan=RowPlan.one(name)), wanted[name])
    assert read == ["a", "b", "c", "d"]
    assert torch.equal(base.score_rows(tokens, plan=RowPlan.one("a")), wanted["a"])
    assert read == ["a", "b", "c", "d", "a"]
    with pytest.raises(ResourceError, match="--expert-memory allows"):
        base.score_rows(tokens, plan=RowPlan.each(("a", "b", "c")))


COMPILED = """
import torch
from test_kinds_of_parts import make
from collegium.models import Group, RowPlan
from collegium.testing.pico import pico_base, random_adapter

base, tokens = pico_base(), torch.randint(0, 250, (3, 12))
block = base.blocks[1]

def captured(plan):
    calls = []
    keep = lambda module, args, kwargs: calls.append((args, kwargs))
    handle = block.register_forward_pre_hook(keep, with_kwargs=True, prepend=True)
    hidden = base.hidden(tokens, plan=plan)
    handle.remove()
    return hidden, calls[0]

def compiles(call, plan):
    args, kwargs = call
    torch._dynamo.reset()
    compiled = torch.compile(block, backend="eager", fullgraph=True)
    with torch.no_grad():
        with base.running(plan.rows(3)):
            want = block(*args, **kwargs)
        with base.running(plan.rows(3)):
            got = compiled(*args, **kwargs)
    torch.testing.assert_close(got, want)

for kind in ("lora", "ia3", "bottleneck", "prefix"):
    for number, name in enumerate((kind, kind + "-2")):
        base.attach(name, make(base, kind, seed=number))
    plan = RowPlan((Group((kind, kind + "-2"), torch.rand(3, 1, 2)), Group((kind,)), Group()))
    compiles(captured(plan)[1], plan)
    for name in base.attached:
        base.detach(name)

from collegium.routers import arrow
from collegium.ops.grouped import dense, gathered, grouped
from collegium.models.slots import gated

adapters = {f"e{number}": random_adapter(base, number, rank=4) for number in range(6)}
for name, adapter in adapters.items():
    base.attach(name, adapter)
gates = arrow(top_k=2).bind_gates(tuple(adapters), base=base, adapters=adapters).slots
plan = RowPlan((Group(tuple(adapters), torch.ones(1, 1, 6), gates=gates),))
wanted = None
for way in (dense, gathered, grouped):
    gated.cheapest = lambda **sizes: way
    hidden, call = captured(plan)
    wanted = hidden if wanted is None else wanted
    torch.testing.assert_close(hidden, wanted, atol=1e-5, rtol=0)
    if way is not grouped:  # which compilers do not know
        compiles(call, plan)
print("compiled")
"""


def test_a_block_with_slots_compiles_whole():
    """In a process of its own: the checks of shapes that tests switch on cannot be compiled."""
    told = subprocess.run(
        [sys.executable, "-c", COMPILED], cwd=Path(__file__).parent, capture_output=True, text=True, check=False
    )
    assert told.stdout.splitlines()[-1:] == ["compiled"], told.stderr[-2000:]
