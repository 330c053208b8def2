"""Laws of posterior pruning on random tables, against sums of plain probabilities."""

import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.ops.posterior import mix_log_probs, posterior
from collegium.ops.pruning import BLOCK_TOKENS, LEAST_BLOCKS, BlockNats, leaving, prediction_deviations, pruning_cost

seeds = st.integers(0, 2**31)


def draws(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def some_missing(seed: int, *shape: int) -> torch.Tensor:
    """Return masks that leave at least the first expert of each row."""
    missing = draws(seed, *shape) > 0
    missing[..., 0] = False
    return missing


@given(seed=seeds, experts=st.integers(1, 6), epsilon=st.sampled_from([0.0, 1e-3, 0.1, 0.4]))
def test_those_under_epsilon_leave_and_somebody_stays(seed: int, experts: int, epsilon: float):
    present = ~some_missing(seed + 1, 20, experts)
    weights = (3 * draws(seed, 20, experts)).softmax(-1) * present
    weights = weights / weights.sum(-1, keepdim=True)
    gone = leaving(weights, present, epsilon=epsilon)
    for row in range(20):
        for expert in range(experts):
            best = weights[row, expert] == weights[row].max()
            wanted = bool(present[row, expert]) and float(weights[row, expert]) < epsilon and not best
            assert bool(gone[row, expert]) == wanted
    assert (present & ~gone).any(-1).all()
    assert epsilon > 0 or not gone.any()


def test_the_last_one_stays_whatever_its_weight():
    one = torch.tensor([False, True, False])
    assert not leaving(torch.tensor([0.0, 0.0, 0.0]), one, epsilon=0.4).any()


@given(seed=seeds, blocks=st.integers(LEAST_BLOCKS, 12))
def test_running_statistics_are_the_statistics(seed: int, blocks: int):
    nats = (30 + draws(seed, blocks)).tolist()
    seen, kept, row = BlockNats(), [], 0
    for value in [*nats[:-2], 1e3, 1e3, *nats[-2:]]:
        many = prediction_deviations(max(len(kept), 2), exact=3.0)
        surprising = len(kept) >= LEAST_BLOCKS and value > statistics.mean(kept) + many * statistics.stdev(kept)
        assert seen.surprised(value) == surprising
        seen, kept, row = seen.read(value), kept if surprising else [*kept, value], row + 1 if surprising else 0
        assert seen.blocks == len(kept)
        assert seen.calls == (row >= 2)
        if len(kept) >= LEAST_BLOCKS:
            assert seen.mean == pytest.approx(statistics.mean(kept))
            assert seen.deviation == pytest.approx(statistics.stdev(kept))


def test_too_few_blocks_surprise_nobody():
    seen = BlockNats()
    for _ in range(LEAST_BLOCKS):
        assert not seen.surprised(1e9)
        seen = seen.read(1.0)
    assert seen.surprised(1.5)


@pytest.mark.parametrize("blocks", [4, 6, 12, 40])
def test_a_further_value_passes_the_estimate_as_rarely_as_what_is_known(blocks: int):
    """By drawing: of normal numbers, so many pass mean + 2 sd known, and as many pass what few earlier ones tell."""
    drawn = draws(blocks, 400_000, blocks + 1)
    earlier, further = drawn[:, :-1], drawn[:, -1]
    limit = earlier.mean(1) + prediction_deviations(blocks, exact=2.0) * earlier.std(1)
    wanted = statistics.NormalDist().cdf(-2.0)
    assert float((further > limit).double().mean()) == pytest.approx(wanted, rel=0.06)
    plain = earlier.mean(1) + 2.0 * earlier.std(1)
    assert float((further > plain).double().mean()) > 1.15 * wanted


def test_one_hard_block_calls_nobody_and_two_do():
    seen = BlockNats().read(10.0).read(11.0).read(12.0).read(11.0)
    assert not seen.read(99.0).calls
    assert seen.read(99.0).read(99.0).calls
    assert not seen.read(99.0).read(11.0).read(99.0).calls


@given(seed=seeds, experts=st.integers(1, 6))
def test_a_block_costs_what_plain_probabilities_say(seed: int, experts: int):
    weights, said = draws(seed, 8, experts).softmax(-1), draws(seed + 1, 8, experts).exp() / 10
    missing = some_missing(seed + 2, 8, experts)
    mass = (weights * missing).sum(-1)
    survivors = (weights * ~missing * said).sum(-1) / (1 - mass)
    ratio = (weights * missing * said).sum(-1) / mass.clamp(min=1e-300) / survivors
    wanted = (1 - mass + mass * ratio).log()
    torch.testing.assert_close(pruning_cost(weights.log(), said.log(), missing), wanted)


@given(seed=seeds, experts=st.integers(1, 5), blocks=st.integers(1, 4))
def test_the_blocks_sum_to_what_the_text_costs(seed: int, experts: int, blocks: int):
    """Token by token with the survivors' posterior, against the full ensemble's: exactly the sum of the costs."""
    prior, table = draws(seed, experts).log_softmax(-1), -draws(seed + 1, blocks, BLOCK_TOKENS, experts).abs()
    missing = some_missing(seed + 2, blocks, experts)
    running, full, pruned, costs = torch.zeros(experts, dtype=torch.float64), 0.0, 0.0, 0.0
    for block in range(blocks):
        costs += float(pruning_cost(posterior(prior, running), table[block].sum(0), missing[block]))
        for said in table[block]:
            exact = posterior(prior, running)
            left = exact.masked_fill(missing[block], float("-inf")).log_softmax(-1)
            full -= float(mix_log_probs(exact, said))
            pruned -= float(mix_log_probs(left, said))
            running = running + said
    assert pruned == pytest.approx(full + costs, abs=1e-9)


def test_nobody_missing_costs_nothing():
    cost = pruning_cost(draws(0, 3, 4).log_softmax(-1), draws(1, 3, 4), torch.zeros(3, 4, dtype=torch.bool))
    torch.testing.assert_close(cost, torch.zeros(3, dtype=torch.float64))
