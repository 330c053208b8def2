"""The tilts that give features their wanted means: a convex problem, solved by Newton's method in float64."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import TargetError

_STEPS = 200
_CLOSE = 1e-9
"""How far a mean may stay from what is wanted, of its feature's spread."""
_FAR = 60.0
"""A tilt beyond this, times the feature's spread, leaves a single kind of text."""


def solve_tilts(
    values: Sequence[Float[Tensor, " sample"]],
    wanted: Sequence[float],
    log_weights: Float[Tensor, " sample"],
    *,
    names: Sequence[str],
) -> list[float]:
    """Return lambda such that the means of features under weights w exp(lambda . f) are the wanted ones.

    lambda minimises log sum_i w_i exp(lambda . (f_i - mu)), whose gradient is the means' distance from mu and whose
    curvature their covariance; a step that does not lower it is halved. One binary feature of base rate a has
    lambda = logit(mu) - logit(a).

    Raises TargetError for a mean outside the values that carry weight, or for means that no weights give together.

    >>> found = solve_tilts([torch.tensor([0.0, 1.0])], [0.5], torch.tensor([0.9, 0.1]).log(), names=["f"])
    >>> round(found[0], 4)
    2.1972
    """
    if not values:
        return []
    alive = log_weights > -torch.inf
    kept = torch.stack([each[alive].double() for each in values])
    _check_range(kept, wanted, names, texts=int(alive.sum()))
    spread = (kept.amax(1) - kept.amin(1)).clamp(min=1e-300)
    scaled = (kept - torch.tensor(wanted, dtype=torch.float64)[:, None]) / spread[:, None]
    tilts = _newton(scaled, log_weights[alive].double())
    means = (scaled * (log_weights[alive] + tilts @ scaled).softmax(0)).sum(1)
    if float(means.abs().max()) > 1e-3 or float(tilts.abs().max()) > _FAR:
        found = [
            f"{name} {float(mean) * float(width) + value:.3g} in place of {value:g}"
            for name, mean, width, value in zip(names, means, spread, wanted, strict=True)
        ]
        raise TargetError(
            f"no weights over the texts drawn give these means at once; the nearest give {', '.join(found)}. Ask for "
            "means that do not exclude each other, or draw more texts."
        )
    return (tilts / spread).tolist()


def _check_range(
    values: Float[Tensor, "feature sample"], wanted: Sequence[float], names: Sequence[str], *, texts: int
) -> None:
    for name, own, value in zip(names, values, wanted, strict=True):
        low, high = float(own.min()), float(own.max())
        if low == high:
            raise TargetError(
                f"{name} is {low:g} in all {texts} texts drawn, so that no weights give it the mean {value:g}. Draw "
                "more texts, or begin where it is likelier: another prompt, or an expert as the proposal."
            )
        if not low < value < high:
            raise TargetError(
                f"{name} lies between {low:g} and {high:g} in the {texts} texts drawn; a mean lies strictly between, "
                f"got {value:g}. A text that always or never has it is a constraint, not a moment."
            )


def _newton(
    values: Float[Tensor, "feature sample"], log_weights: Float[Tensor, " sample"]
) -> Float[Tensor, " feature"]:
    tilts = torch.zeros(len(values), dtype=torch.float64)

    def height(at: Float[Tensor, " feature"]) -> Float[Tensor, ""]:
        return torch.logsumexp(log_weights + at @ values, 0)

    for _ in range(_STEPS):
        weights = (log_weights + tilts @ values).softmax(0)
        slope = values @ weights
        if float(slope.abs().max()) < _CLOSE:
            break
        centred = values - slope[:, None]
        curvature = (centred * weights) @ centred.T
        step = torch.linalg.lstsq(curvature + 1e-12 * torch.eye(len(values)), slope[:, None]).solution[:, 0]
        step = step / max(1.0, float(step.abs().max()) / 5.0)
        size, now = 1.0, height(tilts)
        while size > 1e-8 and float(height(tilts - size * step)) > float(now):
            size /= 2
        tilts = tilts - size * step
    return tilts
