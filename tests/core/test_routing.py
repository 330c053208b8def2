import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import RoutingError
from collegium.core.routing import Routing, dense_weights
from collegium.core.state import select_rows

NAMES = ("law", "code", "chat", "drama")


def simplex(seed: int, *shape: int) -> torch.Tensor:
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed)).softmax(-1)


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ([[[0.5, 0.6]]], "sum to 1"),
        ([[[-0.5, 1.5]]], "non-negative"),
        ([[[float("nan"), 1.0]]], "finite"),
        ([[[0.2, 0.3, 0.5]]], "one weight per expert"),
    ],
)
def test_weights_that_break_the_simplex_are_refused(weights: list[list[list[float]]], says: str):
    with pytest.raises(RoutingError, match=says):
        Routing(("law", "code"), torch.tensor(weights))


def test_open_weights_may_be_any_finite_number():
    assert Routing(("law", "code"), torch.tensor([[[-3.0, 7.0]]]), kind="open").dense().sum() == 4.0


def test_an_expert_is_named_once():
    with pytest.raises(RoutingError, match="once"):
        Routing(("law", "law"), torch.tensor([[[0.5, 0.5]]]))


@given(seed=st.integers(0, 2**31), k=st.integers(1, 6))
def test_top_k_keeps_the_largest_and_their_proportions(seed: int, k: int):
    routing = Routing(NAMES, simplex(seed, 2, 3, 4))
    kept = routing.top_k(k).dense()
    assert int((kept > 0).sum(-1).max()) == min(k, 4)
    torch.testing.assert_close(kept.sum(-1), torch.ones(2, 3))
    least = routing.dense().sort(dim=-1, descending=True).values[..., min(k, 4) - 1 : min(k, 4)]
    expected = torch.where(routing.dense() >= least, routing.dense(), 0.0)
    torch.testing.assert_close(kept, expected / expected.sum(-1, keepdim=True))


def test_top_k_of_equals_takes_the_first_named():
    assert Routing(NAMES, torch.full((1, 1, 4), 0.25)).top_k(2).dense().tolist() == [[[0.5, 0.5, 0.0, 0.0]]]


def test_top_k_keeps_at_least_one():
    with pytest.raises(RoutingError, match="at least one"):
        Routing(NAMES, simplex(0, 1, 1, 4)).top_k(0)


def test_log_weights_of_silent_experts_are_minus_infinity():
    assert Routing(NAMES, simplex(0, 1, 1, 4)).top_k(1).log_weights().isneginf().sum() == 3


@given(seed=st.integers(0, 2**31), order=st.permutations(NAMES))
def test_dense_weights_follow_the_names(seed: int, order: list[str]):
    routing = Routing(NAMES, simplex(seed, 2, 3, 4))
    turned = dense_weights(routing, (*order, "other"))
    assert not turned[..., -1].any()
    for column, name in enumerate(order):
        assert torch.equal(turned[..., column], routing.dense()[..., NAMES.index(name)])


def test_a_weight_on_an_unknown_name_is_refused_and_a_zero_is_not():
    with pytest.raises(RoutingError, match="drama"):
        dense_weights(Routing(NAMES, simplex(0, 1, 1, 4)), NAMES[:3])
    silent = torch.tensor([[[0.5, 0.25, 0.25, 0.0]]])
    assert torch.equal(dense_weights(Routing(NAMES, silent), NAMES[:3]), silent[..., :3])


def test_select_rows_walks_tensors_lists_and_tuples():
    state = (torch.arange(3), ["a", "b", "c"], (torch.eye(3), "held"))
    numbers, letters, (matrix, held) = select_rows(state, torch.tensor([2, 0]))
    assert numbers.tolist() == [2, 0]
    assert letters == ["c", "a"]
    assert matrix.argmax(-1).tolist() == [2, 0]
    assert held == "held"
