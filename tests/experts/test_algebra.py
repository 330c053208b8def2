"""Algebra on changes is algebra on dense changes; TIES, DARE and SVD against slow references."""

import math

import pytest
import torch
from drawn_adapters import (
    INPUTS,
    MAKERS,
    adapter_of,
    assert_same,
    deltas,
    dense,
    dense_sum,
    low_rank,
    rescaling,
)
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import ConfigError, IncompatibleExpert, RoutingError
from collegium.experts.algebra import (
    analogy,
    average,
    compress,
    dare,
    delta_of_adapter,
    negated_factor,
    negated_factors,
    parameterwise_sum,
    task_arithmetic,
    ties,
    total,
    weighted_sum,
)
from collegium.models import (
    Ia3Weights,
    LoraWeights,
)

# -- the algebra ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["lora", "ia3"])
@given(
    weights=st.lists(st.floats(-3, 3).filter(lambda weight: abs(weight) > 1e-3), min_size=1, max_size=4),
    ranks=st.lists(st.integers(1, 4), min_size=4, max_size=4),
)
def test_weighted_sums_are_those_of_dense_changes(kind, weights, ranks):
    make = MAKERS[kind]
    paths = [("q", "v"), ("q",), ("v", "o"), ("q", "o")] if kind == "lora" else [("k", "down"), ("k",), ("down",)] * 2
    more = [{"rank": rank, "scale": 0.3 * rank} if kind == "lora" else {} for rank in ranks]
    adapters = [make(seed, paths=paths[seed], **more[seed]) for seed in range(len(weights))]
    found = adapter_of(weighted_sum(deltas(*adapters), weights))
    assert_same(dense(found), dense_sum(adapters, weights))


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_operators_say_what_they_mean(kind):
    make = MAKERS[kind]
    one, two, three = (make(seed) for seed in range(3))
    d1, d2, d3 = deltas(one, two, three)
    cases = {
        "sum": (d1 + d2, [1, 1, 0]),
        "difference": (d1 - d2, [1, -1, 0]),
        "negation": (-d1, [-1, 0, 0]),
        "scale": (2.5 * d1 * 2, [5, 0, 0]),
        "average": (average([d1, d2, d3]), [1 / 3] * 3),
        "task arithmetic": (task_arithmetic([d1, d2], scale=0.3), [0.3, 0.3, 0]),
        "analogy": (analogy(d1, d2, d3, weight=0.7), [0.7, -0.3, 0.3]),
    }
    for name, (found, weights) in cases.items():
        wanted = dense_sum([one, two, three], weights)
        assert_same({path: found.entries(path) for path in found.layers}, wanted), name


def test_ia3_follows_the_papers_formulas():
    part = Ia3Weights(torch.tensor([0.5, 3.0]))
    (delta,) = deltas({"k": part})
    torch.testing.assert_close(adapter_of(-delta)["k"].factors, 2 - part.factors)
    torch.testing.assert_close(adapter_of(-0.3 * delta)["k"].factors, (1 + 0.3) - 0.3 * part.factors)
    other = Ia3Weights(torch.tensor([2.0, -1.0]))
    mixed = adapter_of(weighted_sum(deltas({"k": part}, {"k": other}), [0.25, 0.75]))
    torch.testing.assert_close(mixed["k"].factors, 0.25 * part.factors + 0.75 * other.factors)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_weight_one_on_one_returns_it_to_the_bit(kind):
    adapter = MAKERS[kind](0)
    (delta,) = deltas(adapter)
    for same in (delta, 1.0 * delta, delta + 0.0 * delta, -(-1 * delta), average([delta])):
        found = adapter_of(same)
        assert found.keys() == adapter.keys()
        for path, part in adapter.items():
            assert all(torch.equal(found[path].tensors[name], tensor) for name, tensor in part.tensors.items())
            assert getattr(found[path], "scale", 1) == getattr(part, "scale", 1)


@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_order_and_grouping_do_not_matter(kind):
    one, two, three = deltas(*(MAKERS[kind](seed) for seed in range(3)))
    first = compress((one + two) + 0.5 * three)
    for other in (three * 0.5 + (two + one), one + (0.5 * three + two)):
        assert_same(dense(compress(other).adapter), dense(first.adapter))


def test_nothing_is_multiplied_out(monkeypatch):
    one, two = deltas(low_rank(0), low_rank(1))
    monkeypatch.setattr(LoraWeights, "delta", None)
    both = 0.6 * one - two
    assert [[term.weight for term in terms] for terms in both.layers.values()] == [[0.6, -1.0]] * 2
    assert adapter_of(both)["q"].a.shape == (4, INPUTS)


def test_what_is_taken_away_again_is_gone():
    one, two = deltas(low_rank(0), low_rank(1, paths=("q",)))
    assert list((one + two - one).layers) == ["q"]
    assert (one - one).layers == {}
    with pytest.raises(ConfigError, match="no change at all"):
        compress(one - one)


# -- claims C1 to C3 --------------------------------------------------------------------------------------------------


def test_c1_double_negation_is_the_identity():
    adapter = low_rank(0)
    (delta,) = deltas(adapter)
    assert_same(dense(adapter_of(-(-1 * delta))), dense(adapter), 0)
    for factor in ("a", "b"):
        twice = negated_factor(negated_factor(adapter, factor=factor), factor=factor)
        assert_same(dense(twice), dense(adapter), 0)
        once = dense(negated_factor(adapter, factor=factor))
        assert_same(once, {path: -change for path, change in dense(adapter).items()}, 0)


def test_c2_negating_both_factors_changes_nothing():
    adapter = low_rank(0)
    assert_same(dense(negated_factors(adapter)), dense(adapter), 0)


@given(weight=st.floats(-2, 2), shared=st.sampled_from(["", "a", "b"]))
def test_c3_cross_terms(weight, shared):
    one, two = low_rank(0, scale=1.0), low_rank(1, scale=1.0)
    if shared:
        parts = {path: {**part.tensors, shared: one[path].tensors[shared]} for path, part in two.items()}
        two = {path: LoraWeights(**tensors) for path, tensors in parts.items()}
    found = dense(parameterwise_sum([one, two], [weight, 1 - weight]))
    changes = dense_sum([one, two], [weight, 1 - weight])
    for path in one:
        cross = -weight * (1 - weight) * (one[path].b - two[path].b) @ (one[path].a - two[path].a)
        torch.testing.assert_close(found[path] - changes[path], cross, atol=1e-4, rtol=1e-4)
        if shared:
            assert float((found[path] - changes[path]).abs().max()) < 1e-4


def test_a_parameterwise_sum_needs_equal_layers_ranks_and_scales():
    for other in (low_rank(1, rank=3), low_rank(1, scale=0.1), low_rank(1, paths=("q",))):
        with pytest.raises(IncompatibleExpert, match="same layers, ranks and scales"):
            parameterwise_sum([low_rank(0), other], [0.5, 0.5])
    with pytest.raises(ConfigError, match="one weight per expert"):
        parameterwise_sum([], [])
    with pytest.raises(RoutingError, match="nan"):
        parameterwise_sum([low_rank(0)], [math.nan])


# -- compression ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rank", [1, 2, 3, 5])
def test_compression_is_optimal(rank, dtype):
    adapters = [low_rank(seed, rank=3) for seed in range(2)]
    made = compress(weighted_sum(deltas(*adapters), [0.7, -1.2]), rank, dtype=dtype)
    lost, size = 0.0, 0.0
    for path, change in dense_sum(adapters, [0.7, -1.2]).items():
        u, values, v = torch.linalg.svd(change.double())
        best = u[:, :rank] @ values[:rank].diag() @ v[:rank]
        part = made.adapter[path]
        assert part.rank == rank
        torch.testing.assert_close(dense({"x": part})["x"].double(), best, atol=1e-5, rtol=1e-5)
        error = float((change.double() - best).norm() / change.double().norm())
        assert made.errors[path] == pytest.approx(error, abs=2e-6)
        lost, size = lost + float((change - best).norm() ** 2), size + float(change.norm() ** 2)
    assert made.error == pytest.approx((lost / size) ** 0.5, abs=2e-6)
    assert made.error_at(rank) == pytest.approx(made.error, abs=1e-12)


def test_double_precision_sees_smaller_errors():
    draw = torch.Generator().manual_seed(0)
    b, a = torch.randn(40, 2, generator=draw), torch.randn(2, 30, generator=draw)
    twin = LoraWeights(a, b + 1e-6 * torch.randn(40, 2, generator=draw))
    delta = delta_of_adapter({"q": LoraWeights(a + 0, b)}) + delta_of_adapter({"q": twin})
    b2, a2 = torch.cat([b, twin.b], 1).double(), torch.cat([a, a]).double()
    true = torch.linalg.svdvals(b2 @ a2)
    wanted = float(true[1:].norm() / true.norm())
    assert compress(delta, 1, dtype=torch.float64).error == pytest.approx(wanted, rel=1e-9)


def test_ranks_that_do_not_exist_are_refused():
    (delta,) = deltas(low_rank(0))
    for rank in (0, -1, INPUTS + 1):
        with pytest.raises(ConfigError, match=f"a rank is 1 to {INPUTS}, the size of q, got {rank}"):
            compress(delta, rank)
    with pytest.raises(ConfigError, match="have no rank"):
        compress(delta_of_adapter(rescaling(0)), 4)


def test_more_factors_than_the_matrix_has_rows_are_no_loss():
    adapters = [low_rank(seed, rank=3) for seed in range(4)]
    made = compress(total(deltas(*adapters)))
    assert made.adapter["q"].rank == INPUTS
    assert made.error == 0.0
    assert_same(dense(made.adapter), dense_sum(adapters, [1] * 4))


# -- TIES, DARE, RegMean ----------------------------------------------------------------------------------------------


def slow_ties(matrices, density):
    """Entry by entry, from the definition."""
    kept = []
    for matrix in matrices:
        flat = matrix.flatten().tolist()
        count = max(1, round(density * len(flat)))
        least = sorted((abs(value) for value in flat), reverse=True)[count - 1]
        kept.append([value if abs(value) >= least else 0.0 for value in flat])
    merged = []
    for values in zip(*kept, strict=True):
        sign = math.copysign(1, sum(values)) if sum(values) else 0
        agreeing = [value for value in values if value * sign > 0]
        merged.append(sum(agreeing) / len(agreeing) if agreeing else 0.0)
    return torch.tensor(merged).view_as(matrices[0])


@pytest.mark.parametrize("density", [0.05, 0.2, 0.6, 1.0])
@pytest.mark.parametrize("kind", ["lora", "ia3"])
def test_ties_is_its_definition(kind, density):
    adapters = [MAKERS[kind](seed) for seed in range(3)]
    found = ties(deltas(*adapters), density=density, scale=0.8)
    changes = [dense(adapter) for adapter in adapters]
    for path in adapters[0]:
        wanted = 0.8 * slow_ties([change[path] for change in changes], density)
        torch.testing.assert_close(found.entries(path), wanted, atol=1e-5, rtol=1e-5)
    if kind == "lora":
        assert_same(dense(adapter_of(found, INPUTS)), {path: found.entries(path) for path in found.layers})


def test_an_expert_without_a_layer_has_no_say_there():
    both = ties(deltas(low_rank(0), low_rank(1, paths=("q",))), density=1.0)
    torch.testing.assert_close(both.entries("v"), dense(low_rank(0))["v"])


def test_entrywise_changes_are_changes_again():
    one, two = deltas(low_rank(0), low_rank(1))
    merged = ties([one, two], density=0.5)
    found = 0.5 * merged - two
    wanted = 0.5 * merged.entries("q") - two.entries("q")
    torch.testing.assert_close(found.entries("q"), wanted)
    made = compress(found)
    assert made.adapter["q"].rank == INPUTS
    torch.testing.assert_close(dense(made.adapter)["q"], wanted, atol=1e-5, rtol=1e-5)


def test_dare_drops_rescales_and_is_the_sum_on_average():
    adapters = [low_rank(0, outputs=30, inputs=20), low_rank(1, outputs=30, inputs=20)]
    one, two = deltas(*adapters)
    alone, density = dare([one], density=0.25, seed=1).entries("q"), 0.25
    change = one.entries("q")
    kept = alone != 0
    torch.testing.assert_close(alone[kept], (change / density)[kept])
    assert float(kept.float().mean()) == pytest.approx(density, abs=0.06)
    draws = torch.stack([dare([one, two], density=density, seed=seed).entries("q") for seed in range(600)])
    spread = draws.std(0) / 600**0.5
    gap = (draws.mean(0) - (one + two).entries("q")).abs()
    assert float((gap <= 5 * spread + 1e-6).float().mean()) == 1.0


def test_dare_follows_its_seed():
    one, two = deltas(low_rank(0), low_rank(1))
    again = [dare([one, two], seed=seed).entries("q") for seed in (3, 3, 4)]
    assert torch.equal(again[0], again[1])
    assert not torch.equal(again[0], again[2])
    layers = dare(deltas({path: low_rank(0)["q"] for path in ("q", "v")}), density=0.5)
    assert not torch.equal(layers.entries("q"), layers.entries("v")), "each layer is drawn for itself"
    assert torch.equal(
        dare([one, two], density=0.5).entries("q") != 0,
        dare([one, two], density=0.5).entries("q", torch.float64) != 0,
    )


@pytest.mark.parametrize("method", [ties, dare])
@pytest.mark.parametrize("density", [0.0, -0.1, 1.1, math.nan])
def test_densities_are_shares(method, density):
    with pytest.raises(ConfigError, match="density"):
        method(deltas(low_rank(0)), density=density)
