"""k-means whose clusters are equally large: exact balance, and each assignment the cheapest there is."""

import itertools
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

_SWEEPS = 3
_SAMPLE = 4096
_STARTS = 4
_START_STEPS = 10


@dataclass(frozen=True)
class Clustering:
    """Clusters of points: each one's centre, each point's cluster, the sum of squared distances, the steps taken."""

    centres: Float[Tensor, "cluster dim"]
    labels: Int[Tensor, " point"]
    inertia: float
    steps: int


def kmeans(
    points: Float[Tensor, "point dim"],
    clusters: int,
    *,
    generator: torch.Generator,
    max_steps: int = 100,
    tolerance: float = 1e-4,
) -> Clustering:
    """Return k-means clusters, as large as they come.

    >>> points = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    >>> kmeans(points, 2, generator=torch.Generator().manual_seed(0)).labels.bincount().sort().values
    tensor([1, 3])
    """
    return _alternate(points, _start(points, clusters, generator), max_steps, tolerance, balanced=False)


def balanced_kmeans(
    points: Float[Tensor, "point dim"],
    clusters: int,
    *,
    generator: torch.Generator,
    initial: Float[Tensor, "cluster dim"] | None = None,
    max_steps: int = 100,
    tolerance: float = 1e-4,
) -> Clustering:
    """Return k-means clusters whose sizes differ by one at most.

    Two steps in turn: the cheapest balanced assignment to the centres, and centres = means of what they were given.
    Neither raises the sum of squared distances; it stops when that falls by less than `tolerance` of itself. Starts
    from `initial`, or from the best of four k-means on a sample (k-means++ starts).

    Departure from c-BTM: its auction is exact for point counts that the clusters divide, and works on batches.

    >>> points = torch.tensor([[0.0], [0.1], [0.2], [9.0]])
    >>> balanced_kmeans(points, 2, generator=torch.Generator().manual_seed(0)).labels.bincount()
    tensor([2, 2])
    """
    start = _start(points, clusters, generator) if initial is None else initial
    return _alternate(points, start, max_steps, tolerance, balanced=True)


def balanced_assignment(
    costs: Float[Tensor, "point cluster"], prices: Float[Tensor, " cluster"] | None = None
) -> tuple[Int[Tensor, " point"], Float[Tensor, " cluster"]]:
    """Return the cheapest labels whose sizes differ by one at most, and prices that a like problem may start from.

    Each point takes the cluster with the lowest cost plus price; prices are raised and lowered, one cluster at a
    time, until each would get its share (coordinate ascent on the dual). That leaves a few points too many here and
    there; they move along the cheapest chains of clusters, which keeps the assignment the cheapest of its sizes.

    >>> balanced_assignment(torch.tensor([[0.0, 1.0], [0.0, 5.0], [0.0, 5.0], [0.0, 2.0]]))[0]
    tensor([1, 0, 0, 1])
    """
    points, clusters = costs.shape
    # In units of the largest cost, so that rounding is the same small thing for all data.
    unit = float(costs.abs().max()) or 1.0
    by_cluster = (costs.double() / unit).t().contiguous()
    paid = torch.zeros(clusters, dtype=torch.float64) if prices is None else prices.double() / unit
    share = points // clusters
    if share and clusters > 1:
        paid = _fair_prices(by_cluster, paid, share)
    labels = (by_cluster + paid[:, None]).argmin(dim=0)
    _settle(by_cluster, labels, share, -(-points // clusters))
    return labels, (paid * unit).to(costs.dtype)


def squared_distances(
    points: Float[Tensor, "point dim"], centres: Float[Tensor, "cluster dim"]
) -> Float[Tensor, "point cluster"]:
    """Return squared Euclidean distances, never below 0.

    >>> squared_distances(torch.tensor([[3.0, 4.0]]), torch.zeros(1, 2))
    tensor([[25.]])
    """
    squares = points.square().sum(1)[:, None] - 2 * points @ centres.t() + centres.square().sum(1)
    return squares.clamp_min(0)


def _alternate(points: Tensor, centres: Tensor, max_steps: int, tolerance: float, *, balanced: bool) -> Clustering:
    prices, inertia, steps = None, float("inf"), 0
    labels = torch.zeros(len(points), dtype=torch.long)
    while steps < max_steps:
        steps += 1
        costs = squared_distances(points, centres)
        if balanced:
            labels, prices = balanced_assignment(costs, prices)
        else:
            labels = costs.argmin(dim=1)
        centres = _means(points, labels, centres)
        last, inertia = inertia, float((points - centres[labels]).square().sum())
        if last - inertia <= tolerance * inertia:
            break
    return Clustering(centres, labels, inertia, steps)


def _means(points: Tensor, labels: Tensor, old: Tensor) -> Tensor:
    """Return each cluster's mean; one that has no point stays where it was."""
    sums = torch.zeros_like(old).index_add_(0, labels, points)
    sizes = labels.bincount(minlength=len(old))[:, None]
    return torch.where(sizes > 0, sums / sizes.clamp_min(1), old)


def _start(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return the centres of the best of some short k-means on a sample."""
    if not 1 <= clusters <= len(points):
        raise ValueError(f"{len(points)} points make 1 to {len(points)} clusters, got {clusters}")
    best, least = None, float("inf")
    for _ in range(_STARTS):
        size = min(len(points), max(_SAMPLE, 8 * clusters))
        sample = points[torch.randperm(len(points), generator=generator)[:size]]
        found = _alternate(sample, _spread(sample, clusters, generator), _START_STEPS, 1e-3, balanced=False)
        if best is None or found.inertia < least:
            best, least = found.centres, found.inertia
    assert best is not None
    return best


def _spread(points: Tensor, clusters: int, generator: torch.Generator) -> Tensor:
    """Return points far from each other, drawn in proportion to the squared distance from those chosen (k-means++)."""
    chosen = [int(torch.randint(len(points), (1,), generator=generator))]
    nearest = squared_distances(points, points[chosen]).squeeze(1)
    while len(chosen) < clusters:
        weights = nearest if bool(nearest.sum() > 0) else torch.ones_like(nearest)
        chosen.append(int(torch.multinomial(weights, 1, generator=generator)))
        nearest = torch.minimum(nearest, squared_distances(points, points[chosen[-1:]]).squeeze(1))
    return points[chosen]


def _fair_prices(costs: Tensor, prices: Tensor, share: int) -> Tensor:
    """Return prices at which each cluster would be taken by about `share` points; costs are (cluster, point)."""
    clusters, points = costs.shape
    priced = costs + prices[:, None]
    for _ in range(_SWEEPS):
        for cluster in range(clusters):
            priced[cluster] = torch.inf
            # At a price below its margin a point takes this cluster; so the share-th largest margin is the price.
            margin = priced.amin(dim=0) - costs[cluster]
            pivot = margin.kthvalue(points - share + 1).values
            below = margin.kthvalue(max(1, points - share)).values
            priced[cluster] = costs[cluster] + (pivot + below) / 2
            prices[cluster] = (pivot + below) / 2
    return prices - prices.mean()


def _settle(costs: Tensor, labels: Tensor, least: int, most: int) -> None:
    """Move points along cheapest chains, in place, until every size is within bounds and no move between them pays."""
    clusters = len(costs)
    sizes = labels.bincount(minlength=clusters)
    gain, mover = torch.empty(clusters, clusters, dtype=costs.dtype), torch.zeros(clusters, clusters, dtype=torch.long)
    stale = list(range(clusters))
    while True:
        for cluster in stale:
            _price_moves(costs, labels, cluster, gain, mover)
        if bool((sizes > most).any()):
            sources, sinks, needed = sizes > most, sizes < most, True
        elif bool((sizes < least).any()):
            sources, sinks, needed = sizes > least, sizes < least, True
        else:
            sources, sinks, needed = sizes > least, sizes < most, False
        chain, cost = _cheapest_chain(gain, sources, sinks)
        if not chain or (not needed and cost > -1e-9):
            return
        for start, end in itertools.pairwise(chain):
            labels[mover[start, end]] = end
        sizes[chain[0]] -= 1
        sizes[chain[-1]] += 1
        stale = chain


def _price_moves(costs: Tensor, labels: Tensor, cluster: int, gain: Tensor, mover: Tensor) -> None:
    """Write what the cheapest move from a cluster to each other costs, and which point makes it."""
    members = (labels == cluster).nonzero().squeeze(1)
    if len(members) == 0:
        gain[cluster] = torch.inf
        return
    change = costs[:, members] - costs[cluster, members]
    best = change.min(dim=1)
    gain[cluster], mover[cluster] = best.values, members[best.indices]
    gain[cluster, cluster] = torch.inf


def _cheapest_chain(gain: Tensor, sources: Tensor, sinks: Tensor) -> tuple[list[int], float]:
    """Return the cheapest chain of clusters from a source to a sink, and its cost (Bellman and Ford)."""
    clusters = len(gain)
    cost = torch.where(sources, 0.0, torch.inf).to(gain.dtype)
    before = torch.full((clusters,), -1)
    for _ in range(clusters):
        through, via = (cost[:, None] + gain).min(dim=0)
        better = through < cost - 1e-12
        if not bool(better.any()):
            break
        cost, before = torch.where(better, through, cost), torch.where(better, via, before)
    end = int(torch.where(sinks, cost, torch.inf).argmin())
    if not bool(sinks[end]) or not bool(cost[end].isfinite()):
        return [], 0.0
    chain = [end]
    while int(before[chain[0]]) >= 0 and len(chain) <= clusters:
        chain.insert(0, int(before[chain[0]]))
    return chain, float(cost[end])
