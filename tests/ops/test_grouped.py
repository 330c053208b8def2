"""Laws of chosen experts' changes: each way says what the chosen experts say, and no other, forward and backward."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from collegium.ops.grouped import Firsts, cheapest, dense, gathered, grouped

WAYS = (dense, gathered, grouped)


def drawn(tokens, experts, k, seed, places=2, inputs=8, rank=4, outputs=12):
    draw = torch.Generator().manual_seed(seed)
    x, a = torch.randn(tokens, inputs, generator=draw), torch.randn(places, experts, rank, inputs, generator=draw)
    b = torch.randn(places, experts, rank, outputs, generator=draw)
    order = [[torch.randperm(experts, generator=draw)[:k] for _ in range(tokens)] for _ in range(places)]
    index = torch.stack([torch.stack(each) for each in order])
    return x, a, b, torch.randn(places, tokens, k, generator=draw), index


def slow(x, a, b, weights, index):
    every = weights.new_zeros(*weights.shape[:2], a.shape[1]).scatter(2, index, weights)
    return torch.einsum("ti,peri,pte,pero->pto", x, a, every, b)


def added(way, x, a, b, weights, index):
    change = way(x, Firsts.of(a), weights, index)
    return torch.stack([change.add(torch.zeros(len(x), each.shape[2]), place, each) for place, each in enumerate(b)])


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 40), st.integers(1, 9), st.integers(1, 3), st.integers(0, 1000))
def test_each_way_is_the_sum_over_the_chosen(tokens, experts, places, seed):
    for k in {1, min(2, experts), experts}:
        parts = drawn(tokens, experts, k, seed, places)
        for way in WAYS:
            torch.testing.assert_close(added(way, *parts), slow(*parts), atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_it_is_added_to_what_is_there(way):
    x, a, b, weights, index = drawn(5, 4, 2, 2)
    output = torch.randn(5, 12)
    wanted = output + slow(x, a, b, weights, index)[1]
    assert way(x, Firsts.of(a), weights, index).add(output, 1, b[1]) is output
    torch.testing.assert_close(output, wanted, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", WAYS)
def test_gradients_are_those_of_the_dense_sum(way):
    x, a, b, weights, index = drawn(30, 6, 2, 3)
    leaves = [each.requires_grad_() for each in (x, a, b, weights)]
    slope = torch.randn(2, 30, 12)
    got = torch.autograd.grad(added(way, x, a, b, weights, index), leaves, slope)
    want = torch.autograd.grad(slow(x, a, b, weights, index), leaves, slope)
    for one, other in zip(got, want, strict=True):
        torch.testing.assert_close(one, other, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("way", [gathered, grouped])
def test_an_expert_that_nobody_chose_may_be_anything(way):
    x, a, b, weights, _ = drawn(10, 5, 2, 1)
    index = torch.arange(10).remainder(3)[None, :, None] + torch.tensor([0, 1])
    index = index.remainder(3).expand(2, -1, -1).contiguous()
    wild = a.clone()
    wild[:, 3:] = float("nan")
    torch.testing.assert_close(added(way, x, wild, b, weights, index), slow(x, a, b, weights, index))


@pytest.mark.parametrize("way", [gathered, grouped])
def test_places_that_begin_elsewhere_break_the_law(way, monkeypatch):
    parts = drawn(20, 5, 2, 7)
    if way is gathered:
        monkeypatch.setattr(Firsts, "of", staticmethod(lambda a: Firsts(a, torch.zeros(2, 1, 1, dtype=torch.long))))
    else:
        plain = torch.searchsorted
        monkeypatch.setattr(torch, "searchsorted", lambda *args, **flags: plain(*args, **(flags | {"right": False})))
    assert not torch.allclose(added(way, *parts), slow(*parts), atol=1e-2)


@pytest.mark.parametrize(
    ("tokens", "experts", "way"),
    [(512, 64, grouped), (512, 2, dense), (4, 64, gathered), (4, 16, gathered), (4, 4, dense)],
)
def test_the_cost_model_chooses(tokens, experts, way):
    assert cheapest(tokens=tokens, chosen=2, experts=experts, rank=8, inputs=256, outputs=256) is way


def test_ranks_that_do_not_fill_sixteen_bytes_are_never_grouped():
    sizes = {"tokens": 4096, "chosen": 2, "experts": 64, "inputs": 256, "outputs": 256}
    assert cheapest(rank=8, **sizes) is grouped
    assert cheapest(rank=6, **sizes) is not grouped
    assert cheapest(rank=4, number_bytes=2, **sizes) is not grouped
    assert cheapest(rank=8, number_bytes=8, **sizes) is not grouped
