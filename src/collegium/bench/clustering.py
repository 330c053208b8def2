"""V9: balanced clustering against k-means-constrained."""

import functools
import importlib
from collections.abc import Callable
from types import ModuleType

import torch
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.timing import alternate
from collegium.core.randomness import generator
from collegium.ops.balanced import balanced_kmeans, kmeans

_DIMENSIONS = 100
_NO_PEER = "k-means-constrained is not installed: `pip install 'collegium[bench]'` compares with it."


def points(count: int, clusters: int, *, seed: int = 0) -> Tensor:
    """Return unit vectors around drawn centres of unequal weight, as tf-idf and SVD give them."""
    drawing = generator(seed, "bench points")
    centres = torch.randn(clusters, _DIMENSIONS, generator=drawing)
    chosen = (torch.rand(count, generator=drawing) ** 2 * clusters).long()
    noisy = centres[chosen] + 1.5 * torch.randn(count, _DIMENSIONS, generator=drawing)
    return noisy / noisy.norm(dim=1, keepdim=True)


def inertia(data: Tensor, labels: Tensor, clusters: int) -> float:
    """Return the sum of squared distances from the clusters' own means."""
    total = 0.0
    for number in range(clusters):
        own = data[labels == number]
        total += float((own - own.mean(0)).square().sum())
    return total


def _peer() -> ModuleType | None:
    try:
        return importlib.import_module("k_means_constrained")
    except ImportError:
        return None


def _ours(data: Tensor, clusters: int) -> Tensor:
    return balanced_kmeans(data, clusters, generator=generator(0, "bench")).labels


def _unbalanced(data: Tensor, clusters: int) -> Tensor:
    return kmeans(data, clusters, generator=generator(0, "bench")).labels


def _theirs(module: ModuleType, data: Tensor, clusters: int) -> Tensor:
    count = len(data)
    model = module.KMeansConstrained(
        n_clusters=clusters, size_min=count // clusters, size_max=-(-count // clusters), n_init=1, random_state=0
    )
    return torch.from_numpy(model.fit_predict(data.numpy())).long()


def _run(quick: bool, progress: Progress) -> Finding:
    sizes, clusters, repeats = ((100, 200, 400, 800), 4, 2) if quick else ((2_500, 5_000, 10_000, 20_000), 16, 3)
    peer, rows, ratios, curves = _peer(), [], {}, {}
    for count in sizes:
        progress(f"V9: {count} points")
        data = points(count, clusters)
        contestants = {
            "collegium balanced": functools.partial(_ours, data, clusters),
            "collegium k-means": functools.partial(_unbalanced, data, clusters),
        }
        if peer is not None:
            contestants["k-means-constrained"] = functools.partial(_theirs, peer, data, clusters)
        labels = {name: run() for name, run in contestants.items()}
        timings = alternate(contestants, repeats=repeats)
        for name, timing in timings.items():
            curves.setdefault(name, {})[count] = timing
            spread = labels[name].bincount(minlength=clusters)
            rows.append(
                {
                    "contestant": name,
                    "points": count,
                    "clusters": clusters,
                    **timing.row(),
                    "inertia": inertia(data, labels[name], clusters),
                    "largest_minus_smallest": int(spread.max() - spread.min()),
                }
            )
        ours, plain = timings["collegium balanced"], timings["collegium k-means"]
        ratios["slowdown_over_k_means"] = ours.least / plain.least
        if peer is not None:
            ratios["speedup"] = timings["k-means-constrained"].least / ours.least
            ratios["inertia_ratio"] = inertia(data, labels["collegium balanced"], clusters) / inertia(
                data, labels["k-means-constrained"], clusters
            )
    ratios["largest_minus_smallest"] = float(
        max(row["largest_minus_smallest"] for row in rows if row["contestant"] == "collegium balanced")
    )
    targets = (
        Target("speedup", "at least", 4.0),
        Target("inertia_ratio", "at most", 1.01),
        Target("largest_minus_smallest", "at most", 1.0),
    )
    grown = [point for name, timings in curves.items() for point in growth(name, "points", timings)]
    roles = {"ours": "collegium balanced", "peer": "k-means-constrained", "base": "collegium k-means"}
    return Finding(rows, ratios, targets, notes=() if peer else (_NO_PEER,), growth=grown, roles=roles)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    count, clusters = (800, 4) if quick else (20_000, 16)
    return {f"{count:,} points": functools.partial(_ours, points(count, clusters), clusters)}


V9 = Bench(
    "V9",
    "balanced clustering, 20,000 x 100, 16 clusters, against k-means-constrained",
    "at least 4x faster, exact balance, inertia within 1 %",
    _run,
    peers=("k-means-constrained",),
    profiled=_profiled,
)
