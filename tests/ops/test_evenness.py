"""Losses of a mixture's choices: exact at what they are to bring about, and where they start from."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.evenness import balance_loss, mutual_information_loss


def drawn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize(("experts", "k"), [(2, 1), (4, 2), (6, 3), (4, 4)])
def test_an_even_load_costs_one_whatever_k(experts, k):
    tokens = experts * 5
    index = (torch.arange(tokens)[:, None] + torch.arange(k)) % experts
    even = torch.full((tokens, experts), 1 / experts)
    torch.testing.assert_close(balance_loss(even, index), torch.tensor(1.0))
    torch.testing.assert_close(balance_loss(even, None), torch.tensor(1.0))


@pytest.mark.parametrize("experts", [2, 5])
def test_one_expert_alone_costs_as_much_as_there_are(experts):
    alone = torch.eye(experts)[torch.zeros(7, dtype=torch.long)]
    torch.testing.assert_close(balance_loss(alone, torch.zeros(7, 1, dtype=torch.long)), torch.tensor(float(experts)))


@given(st.lists(st.integers(1, 9), min_size=2, max_size=5))
def test_where_shares_are_the_probabilities_even_is_least(counts):
    """Tokens choose each expert as often as it is probable: E sum P^2, which is 1 where all P are equal, else more."""
    total, experts = sum(counts), len(counts)
    index = torch.repeat_interleave(torch.arange(experts), torch.tensor(counts))[:, None]
    probabilities = (torch.tensor(counts) / total).expand(total, -1)
    loss = float(balance_loss(probabilities, index))
    assert loss == pytest.approx(experts * sum((count / total) ** 2 for count in counts), abs=1e-5)
    assert loss >= 1 - 1e-6
    assert (loss < 1 + 1e-6) == (len(set(counts)) == 1)


def test_the_slope_lowers_who_is_chosen_more_often():
    logits = torch.zeros(8, 3, requires_grad=True)
    index = torch.tensor([[0]] * 6 + [[1], [2]])
    balance_loss(logits.softmax(-1), index).backward()
    slope = logits.grad.sum(0)
    assert slope[0] > 0 > slope[1]
    torch.testing.assert_close(slope[1], slope[2])


@pytest.mark.parametrize("loss", [balance_loss, mutual_information_loss])
def test_padding_does_not_count(loss):
    probabilities = drawn(3, 6, 4).softmax(-1)
    other = torch.randint(0, 4, (3, 6, 1), generator=torch.Generator().manual_seed(1))
    other = other if loss is balance_loss else other.squeeze(-1) % 2
    lengths = torch.tensor([6, 2, 4])
    read = torch.arange(6) < lengths[:, None]
    got = loss(probabilities, other, read=read)
    torch.testing.assert_close(got, loss(probabilities[read], other[read]))
    assert float((got - loss(probabilities, other)).abs()) > 1e-4
    assert loss(probabilities, other, read=torch.zeros_like(read)) == 0


@pytest.mark.parametrize("domains", [2, 3, 5])
def test_an_expert_for_each_domain_tells_them_wholly_apart(domains):
    domain = torch.arange(domains).repeat(4)
    loss = mutual_information_loss(torch.eye(domains)[domain], domain)
    assert float(loss) == pytest.approx(-math.log(domains), abs=1e-6)
    turned = mutual_information_loss(torch.eye(domains).roll(1, 0)[domain], domain)
    torch.testing.assert_close(turned, loss)


def test_a_choice_that_says_nothing_of_the_domain_costs_nothing():
    same = drawn(4).softmax(-1).expand(12, -1)
    assert float(mutual_information_loss(same, torch.arange(12) % 3)) == pytest.approx(0.0, abs=1e-6)
    one = torch.eye(4)[torch.zeros(12, dtype=torch.long)]
    assert float(mutual_information_loss(one, torch.arange(12) % 3)) == pytest.approx(0.0, abs=1e-6)


def test_it_is_the_sum_over_the_joint_distribution():
    probabilities, domain = drawn(50, 4).softmax(-1).double(), torch.arange(50) % 3
    joint = torch.stack([probabilities[domain == each].sum(0) for each in range(3)]) / 50
    want = -(joint * (joint / (joint.sum(1, keepdim=True) * joint.sum(0))).log()).sum()
    torch.testing.assert_close(mutual_information_loss(probabilities, domain), want)


def test_following_it_gives_each_domain_an_expert():
    logits = (drawn(12, 3) / 10).requires_grad_()
    domain = torch.arange(12) % 3
    for _ in range(200):
        (slope,) = torch.autograd.grad(mutual_information_loss(logits.softmax(-1), domain), logits)
        assert bool(slope.isfinite().all())
        logits = (logits - 20 * slope).detach().requires_grad_()
    assert float(mutual_information_loss(logits.detach().softmax(-1), domain)) < -0.9 * math.log(3)


def test_a_certain_choice_has_a_finite_slope():
    certain = torch.eye(3).requires_grad_()
    mutual_information_loss(certain, torch.tensor([0, 1, 2])).backward()
    assert bool(certain.grad.isfinite().all())
