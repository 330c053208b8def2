"""Laws of grouped products: what the chosen experts say, and no other, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.ops import grouped
from collegium.ops.grouped import choosing_pays, grouped_low_rank


def drawn(tokens, experts, k, seed, inputs=8, rank=4, outputs=12):
    draw = torch.Generator().manual_seed(seed)
    x = torch.randn(tokens, inputs, generator=draw)
    a, b = torch.randn(experts, inputs, rank, generator=draw), torch.randn(experts, rank, outputs, generator=draw)
    index = torch.stack([torch.randperm(experts, generator=draw)[:k] for _ in range(tokens)])
    return x, a, b, torch.randn(tokens, k, generator=draw), index


def slow(x, a, b, weights, index):
    every = weights.new_zeros(len(x), len(a)).scatter(1, index, weights)
    return torch.einsum("ti,eir,te,ero->to", x, a, every, b)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(0, 1000))
def test_it_is_the_dense_sum_over_the_chosen(tokens, experts, seed):
    for k in {1, min(2, experts), experts}:
        parts = drawn(tokens, experts, k, seed)
        torch.testing.assert_close(grouped_low_rank(*parts), slow(*parts), atol=1e-4, rtol=1e-4)


def test_gradients_are_those_of_the_dense_sum():
    x, a, b, weights, index = drawn(30, 6, 2, 3)
    leaves = [each.requires_grad_() for each in (x, a, b, weights)]
    slope = torch.randn(30, 12)
    got = torch.autograd.grad(grouped_low_rank(x, a, b, weights, index), leaves, slope)
    want = torch.autograd.grad(slow(x, a, b, weights, index), leaves, slope)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


def test_an_expert_that_nobody_chose_may_be_anything():
    x, a, b, weights, index = drawn(10, 5, 2, 1)
    index = index % 3 + torch.tensor([0, 0])
    index[:, 1] = (index[:, 0] + 1) % 3
    wild = a.clone()
    wild[3:] = float("nan")
    torch.testing.assert_close(grouped_low_rank(x, wild, b, weights, index), slow(x, a, b, weights, index))


def test_a_wrong_grouping_breaks_the_law(monkeypatch):
    parts, plain = drawn(20, 5, 2, 7), grouped._grouping

    def shifted(index, experts):
        token, order, ends = plain(index, experts)
        return token.roll(1), order, ends

    monkeypatch.setattr(grouped, "_grouping", shifted)
    assert not torch.allclose(grouped_low_rank(*parts), slow(*parts), atol=1e-2)


def test_it_is_one_operator_to_a_compiler():
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode():
        parts = torch.empty(6, 8), torch.empty(3, 8, 4), torch.empty(3, 4, 12), torch.empty(6, 2)
        assert torch.ops.collegium.grouped_low_rank(*parts, torch.zeros(6, 2, dtype=torch.long)).shape == (6, 12)


@pytest.mark.parametrize(("tokens", "experts", "pays"), [(512, 64, True), (512, 2, False), (1, 8, False)])
def test_the_cost_model_chooses(tokens, experts, pays):
    assert choosing_pays(tokens=tokens, chosen=2, experts=experts, rank=8, inputs=256, outputs=256) is pays


def test_ranks_that_do_not_fill_sixteen_bytes_are_computed_densely():
    sizes = {"tokens": 4096, "chosen": 2, "experts": 64, "inputs": 256, "outputs": 256}
    assert choosing_pays(rank=8, **sizes)
    assert not choosing_pays(rank=6, **sizes)
    assert not choosing_pays(rank=4, number_bytes=2, **sizes)
    assert not choosing_pays(rank=8, number_bytes=8, **sizes)
