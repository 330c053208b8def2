"""Balanced k-means: exact balance at the lowest cost, whatever the order of points."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from collegium.ops.balanced import balanced_assignment, balanced_kmeans, kmeans, squared_distances

Assigner = Callable[[Tensor], Tensor]


def draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def exact(costs: Tensor) -> Tensor:
    return balanced_assignment(costs)[0]


def nearest(costs: Tensor) -> Tensor:
    """The broken assignment: nobody counts."""
    return costs.argmin(dim=1)


def first_come(costs: Tensor) -> Tensor:
    """The broken assignment: points choose in turn while there is room; balanced, but dear, and order decides."""
    points, clusters = costs.shape
    room = [-(-(points - cluster) // clusters) for cluster in range(clusters)]
    labels = torch.zeros(points, dtype=torch.long)
    for point in range(points):
        free = [cluster for cluster in range(clusters) if room[cluster]]
        labels[point] = min(free, key=lambda cluster: float(costs[point, cluster]))
        room[int(labels[point])] -= 1
    return labels


def lowest_cost(costs: Tensor) -> float:
    """The oracle: each cluster stands there ceil(points / clusters) times, its last place open to some alone."""
    points, clusters = costs.shape
    share, more = divmod(points, clusters)
    places = costs.double().repeat(1, share)
    if not more:
        rows, columns = linear_sum_assignment(places.numpy())
        return float(places[rows, columns].sum())
    # Idle rows fill the surplus places; they may take each cluster's extra place at no cost, and no other.
    idle = clusters - more
    table = torch.cat([places, costs.double()], dim=1)
    spare = torch.cat([torch.full((idle, places.shape[1]), 1e9), torch.zeros(idle, clusters)], dim=1)
    whole = torch.cat([table, spare.double()])
    rows, columns = linear_sum_assignment(whole.numpy())
    return float(whole[rows, columns].sum())


def is_cheapest_balance(assign: Assigner, *, points: int, clusters: int, seed: int) -> bool:
    costs = torch.rand(points, clusters, generator=draw(seed))
    costs[:, 0] *= 0.3  # one cluster that everybody wants
    labels = assign(costs)
    sizes = labels.bincount(minlength=clusters)
    cost = float(costs.double().gather(1, labels[:, None]).sum())
    return int(sizes.max() - sizes.min()) <= 1 and cost <= lowest_cost(costs) + 1e-6


def is_equivariant(assign: Assigner, seed: int = 0) -> bool:
    costs = torch.rand(60, 4, generator=draw(seed))
    order = torch.randperm(60, generator=draw(seed + 1))
    return bool((assign(costs)[order] == assign(costs[order])).all())


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 7), st.integers(0, 1000))
def test_the_assignment_is_balanced_and_the_cheapest(points: int, clusters: int, seed: int) -> None:
    assert is_cheapest_balance(exact, points=points, clusters=clusters, seed=seed)


def test_wrong_assignments_are_told() -> None:
    assert not is_cheapest_balance(nearest, points=40, clusters=4, seed=0)
    assert not is_cheapest_balance(first_come, points=40, clusters=4, seed=0)


def test_the_order_of_points_plays_no_part() -> None:
    assert is_equivariant(exact)
    assert not is_equivariant(first_come)


def test_prices_of_another_problem_change_nothing() -> None:
    costs = torch.rand(50, 5, generator=draw(0))
    labels, prices = balanced_assignment(costs)
    assert balanced_assignment(costs, prices)[0].equal(labels)
    assert balanced_assignment(costs, torch.tensor([3.0, -5.0, 0.0, 9.0, 1.0]))[0].equal(labels)


def test_equal_points_are_shared_out() -> None:
    labels, _ = balanced_assignment(torch.zeros(7, 3))
    assert labels.bincount(minlength=3).sort().values.tolist() == [2, 2, 3]


def blobs(seed: int, *, sizes: tuple[int, ...] = (90, 30, 30)) -> Tensor:
    centres = torch.tensor([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
    return torch.cat([centres[n] + torch.randn(size, 2, generator=draw(seed + n)) for n, size in enumerate(sizes)])


def test_balanced_clusters_are_equal_where_free_ones_are_not() -> None:
    points = blobs(0)
    free = kmeans(points, 3, generator=draw(0)).labels.bincount()
    balanced = balanced_kmeans(points, 3, generator=draw(0))
    assert balanced.labels.bincount().tolist() == [50, 50, 50]
    assert free.sort().values.tolist() == [30, 30, 90]
    expected = torch.stack([points[balanced.labels == n].mean(0) for n in range(3)])
    assert torch.allclose(balanced.centres, expected, atol=1e-6)
    assert balanced.inertia == pytest.approx(float((points - expected[balanced.labels]).square().sum()), rel=1e-5)


def test_balanced_blobs_are_found() -> None:
    found = balanced_kmeans(blobs(3, sizes=(40, 40, 40)), 3, generator=draw(0)).labels
    assert [len(set(found[n * 40 : n * 40 + 40].tolist())) for n in range(3)] == [1, 1, 1]


def test_steps_never_raise_the_inertia_and_end() -> None:
    points = torch.randn(300, 8, generator=draw(0))
    start = points[:6]
    falls = [
        balanced_kmeans(points, 6, generator=draw(0), initial=start, max_steps=steps, tolerance=0.0).inertia
        for steps in (1, 2, 4, 8, 300)
    ]
    assert falls == sorted(falls, reverse=True)
    ended = balanced_kmeans(points, 6, generator=draw(0), initial=start, max_steps=300, tolerance=0.0)
    assert ended.steps < 300
    labels, _ = balanced_assignment(squared_distances(points, ended.centres))
    assert labels.equal(ended.labels)


def test_the_seed_decides() -> None:
    points = torch.randn(200, 5, generator=draw(0))
    one, same = (balanced_kmeans(points, 4, generator=draw(7)) for _ in range(2))
    assert one.labels.equal(same.labels)
    assert one.centres.equal(same.centres)


def test_permuted_points_from_equal_centres_give_permuted_clusters() -> None:
    points = torch.randn(200, 5, generator=draw(0))
    order = torch.randperm(200, generator=draw(1))
    one = balanced_kmeans(points, 4, generator=draw(0), initial=points[:4])
    other = balanced_kmeans(points[order], 4, generator=draw(0), initial=points[:4])
    assert other.labels.equal(one.labels[order])


def test_points_that_coincide_still_balance() -> None:
    found = balanced_kmeans(torch.ones(9, 3), 3, generator=draw(0))
    assert found.labels.bincount(minlength=3).tolist() == [3, 3, 3]
    assert found.inertia == 0.0


@pytest.mark.parametrize("clusters", [0, 4])
def test_clusters_need_points(clusters: int) -> None:
    with pytest.raises(ValueError, match="3 points make 1 to 3 clusters"):
        balanced_kmeans(torch.zeros(3, 2), clusters, generator=draw(0))
