import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.posterior import mix_log_probs, posterior, running_log_likelihood

seeds = st.integers(0, 2**31)


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@given(seed=seeds, experts=st.integers(1, 5))
def test_posterior_is_bayes_rule(seed: int, experts: int):
    prior, likelihood = draws(seed, experts).softmax(0), draws(seed + 1, 3, experts).exp()
    direct = prior * likelihood / (prior * likelihood).sum(-1, keepdim=True)
    torch.testing.assert_close(posterior(prior.log(), likelihood.log()).exp(), direct)


def test_posterior_stays_finite_where_probabilities_underflow():
    far = torch.tensor([[-100_000.0, -100_001.0]])
    torch.testing.assert_close(posterior(torch.zeros(2), far).exp(), torch.tensor([[0.7310586, 0.2689414]]))


@given(seed=seeds, decay=st.floats(0, 1), cut=st.integers(0, 6))
def test_reading_at_once_or_in_pieces_is_the_same_to_the_last_bit(seed: int, decay: float, cut: int):
    likelihoods, start = draws(seed, 2, 6, 3).float(), torch.zeros(2, 3)
    at_once = running_log_likelihood(likelihoods, start, decay=decay)
    first = running_log_likelihood(likelihoods[:, :cut], start, decay=decay)
    state = first[:, -1] if cut else start
    second = running_log_likelihood(likelihoods[:, cut:], state, decay=decay)
    assert torch.equal(torch.cat([first, second], dim=1), at_once)


@given(seed=seeds)
def test_decay_one_is_the_sum_and_decay_zero_the_last_token(seed: int):
    likelihoods, start = draws(seed, 2, 5, 3), torch.zeros(2, 3, dtype=torch.float64)
    torch.testing.assert_close(running_log_likelihood(likelihoods, start), likelihoods.cumsum(1))
    assert torch.equal(running_log_likelihood(likelihoods, start, decay=0.0), likelihoods)


@given(seed=seeds, decay=st.floats(0, 1))
def test_padding_moves_nothing_even_when_not_a_number(seed: int, decay: float):
    likelihoods, start = draws(seed, 2, 5, 3), torch.zeros(2, 3, dtype=torch.float64)
    padding = torch.tensor([[False, True, False, True, True], [False] * 5])
    likelihoods[padding] = torch.nan
    path = running_log_likelihood(likelihoods, start, decay=decay, padding=padding)
    kept = running_log_likelihood(likelihoods[:1, [0, 2]], start[:1], decay=decay)
    assert torch.equal(path[:1], kept[:, [0, 0, 1, 1, 1]])


@given(seed=seeds, experts=st.integers(1, 5))
def test_mixture_is_the_weighted_mean_of_probabilities(seed: int, experts: int):
    weights, log_probs = draws(seed, experts).softmax(0), -draws(seed + 1, 4, experts).abs()
    torch.testing.assert_close(mix_log_probs(weights.log(), log_probs).exp(), log_probs.exp() @ weights)


def test_silent_experts_add_nothing():
    weights = torch.tensor([1.0, 0.0]).log()
    assert mix_log_probs(weights, torch.tensor([-2.0, -1.0])) == -2.0
