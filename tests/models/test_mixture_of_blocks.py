"""Laws of sparse mixtures of feed-forward experts: gathered by expert, they are what all at every token would be."""

import copy
from dataclasses import dataclass

import pytest
import torch

from collegium.core.errors import RoutingError
from collegium.models import FfnWeights, Group, OpenTrace, RowPlan, SoftmaxGate, softmax_gate
from collegium.models.slots import run
from collegium.ops.evenness import balance_loss
from collegium.testing.pico import random_adapter, random_base

ARCHITECTURES = ("llama", "gpt2", "bert", "distilbert")
NAMES = ("one", "two", "three", "four")
LENGTHS = torch.tensor([10, 4, 7])
REAL = torch.arange(10) < LENGTHS[:, None]


def drawn(*shape, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@dataclass(frozen=True, eq=False)
class FixedGate:
    """The same weights at every token."""

    weights: torch.Tensor
    index: torch.Tensor | None = None

    def __call__(self, hidden):
        shape = hidden.shape[:-1]
        index = None if self.index is None else self.index.expand(*shape, -1)
        return self.weights.expand(*shape, -1), index


def places(base):
    return [path for path, site in base.sites.items() if site.what == "feed_forward"]


def experts(base, *, noise=0.3):
    return {
        name: {
            path: FfnWeights(
                {
                    key: (value.detach() + noise * drawn(*value.shape, seed=100 * number + block)).requires_grad_()
                    for key, value in base.module(path).named_parameters()
                }
            )
            for block, path in enumerate(places(base))
        }
        for number, name in enumerate(NAMES)
    }


@pytest.fixture(params=ARCHITECTURES)
def base(request):
    """A base with four feed-forward experts that are being trained."""
    base = random_base(request.param)
    for name, adapter in experts(base).items():
        base.attach(name, adapter)
    return base


@pytest.fixture
def tokens():
    return torch.randint(2, 250, (3, 10), generator=torch.Generator().manual_seed(1))


def gates_of(base, top_k):
    """A decided gate at each feed-forward block."""
    return {
        path: SoftmaxGate(drawn(len(NAMES), 64, seed=number).mul(0.3).requires_grad_(), top_k)
        for number, path in enumerate(places(base))
    }


def mixed(base, tokens, gates, *, lengths=LENGTHS, **asked):
    plan = RowPlan((Group(NAMES, gates=gates),))
    return base.hidden(tokens, lengths=lengths, plan=plan, **asked)


def computed_densely(base, tokens, gates):
    """The reference: in place of each block, every expert at every token, times its weight."""
    hidden_by = {}
    for path, gate in gates.items():
        block = copy.deepcopy(base.module(path))
        owner = base.model.get_submodule(path)
        hidden_by[owner] = owner.forward

        def forward(*args, path=path, gate=gate, block=block):
            x = args[-1]
            logits = x @ gate.weight.T
            kept = logits.topk(gate.top_k or len(NAMES), -1).indices
            off = torch.full_like(logits, float("-inf")).scatter(-1, kept, 0.0)
            weights = (logits + off).softmax(-1)
            said = [torch.func.functional_call(block, dict(base.adapter(name)[path].tensors), (x,)) for name in NAMES]
            return torch.einsum("rse,ersh->rsh", weights, torch.stack(said))

        owner.forward = forward
    try:
        return base.hidden(tokens, lengths=LENGTHS)
    finally:
        for owner in hidden_by:
            del owner.forward


def slopes(base, hidden, gates):
    """The gradients of a loss over real tokens, by every trained weight."""
    loss = (hidden[REAL] @ drawn(64, seed=5).to(hidden)).sin().sum()
    weights = [each for name in NAMES for part in base.adapter(name).values() for each in part.tensors.values()]
    return torch.autograd.grad(loss, [*weights, *(gate.weight for gate in gates.values())])


def exact(architecture):
    """A base and its experts in double precision, where nothing but a mistake makes a difference."""
    base = random_base(architecture)
    base.model.double()
    for name, adapter in experts(base).items():
        base.attach(name, adapter)
    return base


@pytest.mark.parametrize("architecture", ARCHITECTURES)
@pytest.mark.parametrize("top_k", [1, 2, 3, None])
def test_gathered_is_computed_densely_and_learns_the_same(architecture, tokens, top_k):
    base = exact(architecture)
    gates = {
        path: SoftmaxGate(gate.weight.detach().double().requires_grad_(), top_k)
        for path, gate in gates_of(base, top_k).items()
    }
    got, want = mixed(base, tokens, gates), computed_densely(base, tokens, gates)
    torch.testing.assert_close(got[REAL], want[REAL], atol=1e-12, rtol=0)
    assert float((got - base.hidden(tokens, lengths=LENGTHS)).detach().abs().max()) > 1e-2
    ours, theirs = slopes(base, got, gates), slopes(base, want, gates)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-10, rtol=1e-9)
    if top_k != 1:  # the softmax over one logit is 1 whatever it is
        assert all(bool(each.any()) for each in ours[-len(gates) :])


@pytest.mark.parametrize("top_k", [1, 2, None])
def test_gathered_is_computed_densely_in_single_precision_too(base, tokens, top_k):
    gates = gates_of(base, top_k)
    got, want = mixed(base, tokens, gates), computed_densely(base, tokens, gates)
    torch.testing.assert_close(got[REAL], want[REAL], atol=5e-6, rtol=0)


def test_all_alike_is_the_dense_mixture(base, tokens):
    gates = dict.fromkeys(places(base), FixedGate(torch.full((4,), 0.25)))
    weights = torch.full((1, 1, 4), 0.25)
    want = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan((Group(NAMES, weights),)))
    torch.testing.assert_close(mixed(base, tokens, gates)[REAL], want[REAL], atol=2e-6, rtol=0)
    plain = dict.fromkeys(places(base), SoftmaxGate(torch.zeros(4, 64), 4))
    torch.testing.assert_close(mixed(base, tokens, plain)[REAL], want[REAL], atol=2e-6, rtol=0)


@pytest.mark.parametrize("place", range(4))
def test_one_hot_is_that_expert_alone(base, tokens, place):
    gates = dict.fromkeys(places(base), FixedGate(torch.ones(1), torch.tensor([place])))
    want = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan.one(NAMES[place]))
    torch.testing.assert_close(mixed(base, tokens, gates)[REAL], want[REAL], atol=2e-6, rtol=0)


def test_copies_of_the_bases_block_change_nothing(tokens):
    base = random_base("bert")
    for name, adapter in experts(base, noise=0.0).items():
        base.attach(name, adapter)
    want = base.hidden(tokens, lengths=LENGTHS)
    torch.testing.assert_close(mixed(base, tokens, gates_of(base, 2))[REAL], want[REAL], atol=2e-6, rtol=0)


@pytest.mark.parametrize("top_k", [1, 2, 4])
def test_each_expert_computes_its_own_tokens_and_no_padding(base, tokens, monkeypatch, top_k):
    asked, plain = [], run._said
    monkeypatch.setattr(
        run, "_said", lambda module, tensors, x: (asked.append(x.shape[1]), plain(module, tensors, x))[1]
    )
    mixed(base, tokens, gates_of(base, top_k))
    assert len(asked) == 4 * len(places(base))
    assert sum(asked) == top_k * int(LENGTHS.sum()) * len(places(base))
    asked.clear()
    mixed(base, tokens, gates_of(base, top_k), lengths=None)
    assert sum(asked) == top_k * tokens.numel() * len(places(base))


def test_a_text_is_mixed_as_if_alone(base, tokens):
    gates = gates_of(base, 2)
    together = mixed(base, tokens, gates)
    for row, length in enumerate(LENGTHS.tolist()):
        alone = mixed(base, tokens[row : row + 1, :length], gates, lengths=None)[0]
        torch.testing.assert_close(together[row, :length], alone, atol=1e-5, rtol=0)


def test_an_open_trace_lets_a_loss_reach_the_gate(base, tokens):
    gates, trace = gates_of(base, 1), OpenTrace()
    mixed(base, tokens, gates, trace=trace)
    assert torch.equal(trace.read, REAL)
    assert trace.said.keys() == trace.probabilities.keys() == gates.keys()
    for path, gate in gates.items():
        weights, index = trace.said[path]
        probabilities = trace.probabilities[path]
        assert torch.equal(probabilities.argmax(-1), index.squeeze(-1))
        torch.testing.assert_close(probabilities.sum(-1), torch.ones(3, 10))
        assert weights.shape == (3, 10, 1)
        loss = balance_loss(probabilities, index, read=trace.read)
        (slope,) = torch.autograd.grad(loss, gate.weight, retain_graph=True)
        assert bool(slope.any()), "with one expert a token, the balance alone teaches the gate"


def test_an_ordinary_trace_is_for_reading(base, tokens):
    trace, gates = {}, gates_of(base, 2)
    mixed(base, tokens, gates, trace=trace)
    for path in gates:
        weights, index = trace[path]
        assert not weights.requires_grad
        assert weights.shape == index.shape == (3, 10, 2)


def test_an_open_trace_hears_low_rank_gates_too(tokens):
    base = random_base("llama")
    for number, name in enumerate(NAMES):
        base.attach(name, random_adapter(base, number))
    path, trace = "model.layers.1.mlp.up_proj", OpenTrace()
    gate = SoftmaxGate(drawn(4, 64, seed=1).requires_grad_(), 2)
    base.hidden(tokens, plan=RowPlan((Group(NAMES, gates={path: gate}),)), trace=trace)
    assert trace.said[path][0].requires_grad
    assert trace.probabilities[path].shape == (3, 10, 4)
    assert trace.read is None


def test_places_without_a_gate_take_the_rows_weights(base, tokens):
    _, last = places(base)
    weights = torch.tensor([[[0.5, 0.0, 0.25, 0.25]]])
    gates = {last: FixedGate(weights[0, 0])}
    got = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan((Group(NAMES, weights, gates=gates),)))
    want = base.hidden(tokens, lengths=LENGTHS, plan=RowPlan((Group(NAMES, weights),)))
    torch.testing.assert_close(got[REAL], want[REAL], atol=5e-6, rtol=0)


def test_whoever_has_no_block_at_a_place_says_what_the_base_says(tokens):
    base = random_base("llama")
    first, last = places(base)
    adapters = experts(base)
    base.attach("deep", adapters["one"])
    base.attach("top", {last: adapters["two"][last]})
    gates = dict.fromkeys((first, last), FixedGate(torch.tensor([0.4, 0.6])))
    got = base.hidden(tokens, plan=RowPlan((Group(("deep", "top"), gates=gates),)))
    want = base.hidden(tokens, plan=RowPlan.blend(("deep", "top"), torch.tensor([[[0.4, 0.6]]])))
    torch.testing.assert_close(got, want, atol=2e-6, rtol=0)


def test_gates_weigh_bottlenecks_too(tokens):
    base = random_base("bert")
    for number, name in enumerate(NAMES):
        base.attach(name, random_adapter(base, number, kind="bottleneck", rank=3 + number))
    gates = dict.fromkeys(places(base), FixedGate(torch.tensor([0.3, 0.7]), torch.tensor([2, 0])))
    want = RowPlan.blend(NAMES, torch.tensor([[[0.7, 0.0, 0.3, 0.0]]]))
    got, blend = mixed(base, tokens, gates), base.hidden(tokens, lengths=LENGTHS, plan=want)
    torch.testing.assert_close(got[REAL], blend[REAL], atol=5e-6, rtol=0)


def test_stepwise_is_all_at_once(tokens):
    base = random_base("llama")
    for name, adapter in experts(base).items():
        base.attach(name, adapter)
    plan = RowPlan((Group(NAMES, gates=gates_of(base, 2)),))
    want = base.logprobs_rows(tokens, plan=plan)[0]
    opened = base.open_rows(tokens[:, :6].tolist(), plan)
    for place in range(6, 10):
        torch.testing.assert_close(opened.logprobs, want[:, place - 1], atol=1e-5, rtol=0)
        opened.step(tokens[:, place])


def test_a_fresh_gate_weighs_almost_alike_and_follows_its_generator():
    one, again = (softmax_gate(4, 64, top_k=2, generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert torch.equal(one.weight, again.weight)
    weights, index = one(drawn(50, 64, seed=1))
    assert float(weights.detach().min()) > 0.3
    assert set(index.flatten().tolist()) == {0, 1, 2, 3}


def test_gates_that_cannot_be_are_refused():
    with pytest.raises(RoutingError, match=r"at least one expert \(top_k\), got 0"):
        SoftmaxGate(torch.zeros(3, 64), 0)
    with pytest.raises(RoutingError, match="4 experts, the gate at 'here' is for 5"):
        Group(NAMES, gates={"here": SoftmaxGate(torch.zeros(5, 64), 2)})
