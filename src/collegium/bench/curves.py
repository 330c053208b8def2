"""How cost grows with size: the points of a curve and the exponent fitted through them."""

import math
from collections.abc import Mapping
from typing import Any

from collegium.bench.timing import Timing


def exponent(points: Mapping[int, float]) -> float:
    """Return k of cost = c * size ** k, the slope of log cost over log size by least squares.

    Raises ValueError for fewer than two sizes, which have no slope.

    >>> round(exponent({1: 2.0, 2: 4.0, 4: 8.0, 8: 16.0}), 6)
    1.0
    """
    if len(points) < 2:
        raise ValueError(f"an exponent needs at least two sizes, got {len(points)}.")
    sizes = [math.log(size) for size in points]
    costs = [math.log(cost) for cost in points.values()]
    size_mean, cost_mean = sum(sizes) / len(sizes), sum(costs) / len(costs)
    together = sum((size - size_mean) * (cost - cost_mean) for size, cost in zip(sizes, costs, strict=True))
    return together / sum((size - size_mean) ** 2 for size in sizes)


def growth(curve: str, axis: str, timings: Mapping[int, Timing]) -> list[dict[str, Any]]:
    """Return the points of one curve: size, least ms, and the exponent fitted through all of them.

    curve: what is done by whom. axis: what the size counts.

    >>> points = growth("ours", "experts", {1: Timing((0.1,)), 2: Timing((0.2,))})
    >>> points[1]
    {'curve': 'ours', 'axis': 'experts', 'size': 2, 'ms': 200.0, 'exponent': 1.0}
    """
    points = {size: 1e3 * timing.least for size, timing in timings.items()}
    fitted = round(exponent(points), 3)
    return [
        {"curve": curve, "axis": axis, "size": size, "ms": cost, "exponent": fitted} for size, cost in points.items()
    ]
