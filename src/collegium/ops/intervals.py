"""Paired 95 % intervals: bootstrap over units, Student's t over seeds."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK_ROWS = 256


@dataclass(frozen=True)
class Interval:
    """An estimate between two bounds; infinite bounds say that the data cannot bound it."""

    low: float
    estimate: float
    high: float

    def __post_init__(self) -> None:
        """Refuse bounds that are not numbers or stand in the wrong order."""
        if not self.low <= self.high:
            raise ValueError(f"an interval needs low <= high, got {self.low} and {self.high}.")


def student_interval(differences: Float[Tensor, " seed"], *, confidence: float = 0.95) -> Interval:
    """Return Student's t interval of the mean of paired differences, one per seed.

    mean +- t(confidence, n - 1) * s / sqrt(n); with one seed both bounds are infinite.

    >>> interval = student_interval(torch.tensor([1.0, 2.0, 3.0]))
    >>> round(interval.low, 3), interval.estimate, round(interval.high, 3)
    (-0.484, 2.0, 4.484)
    """
    from scipy.stats import t as student

    values = _finite(differences)
    mean = float(values.mean())
    if len(values) == 1:
        return Interval(-math.inf, mean, math.inf)
    quantile = float(student.ppf((1 + confidence) / 2, len(values) - 1))
    half = quantile * float(values.std(unbiased=True)) / math.sqrt(len(values))
    return Interval(mean - half, mean, mean + half)


def bootstrap_interval(
    values: Float[Tensor, " unit"], *, seed: int = 0, resamples: int = 2000, confidence: float = 0.95
) -> Interval:
    """Return the percentile bootstrap interval of a mean over units (windows, documents, rows).

    Give differences for a paired interval: unit i of one system minus unit i of the other.

    >>> bootstrap_interval(torch.ones(8))
    Interval(low=1.0, estimate=1.0, high=1.0)
    """
    values = _finite(values)

    def mean(rows: Tensor) -> Tensor:
        return values[rows].mean(-1)

    return _bootstrap(len(values), mean, seed=seed, resamples=resamples, confidence=confidence)


def weighted_interval(
    values: Float[Tensor, " unit"],
    weights: Float[Tensor, " unit"],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the percentile bootstrap interval of sum w v / sum w over units, drawn with their weights.

    >>> weighted_interval(torch.ones(8), torch.arange(1.0, 9.0))
    Interval(low=1.0, estimate=1.0, high=1.0)
    """
    values, weights = _finite(values), _finite(weights)

    def mean(rows: Tensor) -> Tensor:
        return (values[rows] * weights[rows]).sum(-1) / weights[rows].sum(-1)

    return _bootstrap(len(values), mean, seed=seed, resamples=resamples, confidence=confidence)


def perplexity_interval(
    nats: Float[Tensor, " unit"],
    tokens: Float[Tensor, " unit"],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the bootstrap interval of exp(nats / tokens), units drawn with all of their tokens.

    Units without tokens say nothing and are not drawn.

    >>> round(perplexity_interval(torch.tensor([2.0, 4.0]), torch.tensor([1.0, 2.0])).estimate, 3)
    7.389
    """
    nats, tokens = _with_tokens(tokens, nats, tokens)

    def perplexity(rows: Tensor) -> Tensor:
        return (nats[rows].sum(-1) / tokens[rows].sum(-1)).exp()

    return _bootstrap(len(nats), perplexity, seed=seed, resamples=resamples, confidence=confidence)


def perplexity_difference_interval(
    nats: Float[Tensor, " unit"],
    other_nats: Float[Tensor, " unit"],
    tokens: Float[Tensor, " unit"],
    *,
    seed: int = 0,
    resamples: int = 2000,
    confidence: float = 0.95,
) -> Interval:
    """Return the paired bootstrap interval of perplexity minus other perplexity on the same units.

    Both systems are read on the same drawn units, so what makes a unit hard for both cancels. Units without tokens
    say nothing and are not drawn.

    >>> nats = torch.tensor([2.0, 4.0])
    >>> perplexity_difference_interval(nats, nats, torch.tensor([1.0, 2.0]))
    Interval(low=0.0, estimate=0.0, high=0.0)
    """
    nats, other_nats, tokens = _with_tokens(tokens, nats, other_nats, tokens)

    def difference(rows: Tensor) -> Tensor:
        count = tokens[rows].sum(-1)
        return (nats[rows].sum(-1) / count).exp() - (other_nats[rows].sum(-1) / count).exp()

    return _bootstrap(len(nats), difference, seed=seed, resamples=resamples, confidence=confidence)


def _with_tokens(tokens: Float[Tensor, " unit"], *columns: Float[Tensor, " unit"]) -> list[Float[Tensor, " some"]]:
    """Return the columns of the units that have tokens, in float64; a draw of units without any would be 0 / 0."""
    kept = _finite(tokens) > 0
    if not kept.any():
        raise ValueError("an interval needs at least one unit with tokens, got none.")
    return [_finite(column)[kept] for column in columns]


def _finite(values: Float[Tensor, " unit"]) -> Float[Tensor, " unit"]:
    """Return the values in float64; raises ValueError for none or for one that is not finite."""
    if len(values) == 0:
        raise ValueError("an interval needs at least one unit, got none.")
    if not torch.isfinite(values).all():
        raise ValueError("an interval needs finite values, got NaN or infinity.")
    return values.detach().cpu().double()


def _bootstrap(
    count: int, statistic: Callable[[Tensor], Tensor], *, seed: int, resamples: int, confidence: float
) -> Interval:
    """Return the percentile interval of a statistic of drawn unit indices; one unit cannot be bounded."""
    estimate = float(statistic(torch.arange(count)))
    if count == 1:
        return Interval(-math.inf, estimate, math.inf)
    drawing = torch.Generator().manual_seed(seed)
    drawn = []
    for start in range(0, resamples, _CHUNK_ROWS):
        rows = min(_CHUNK_ROWS, resamples - start)
        drawn.append(statistic(torch.randint(count, (rows, count), generator=drawing)))
    tail = (1 - confidence) / 2
    low, high = torch.cat(drawn).quantile(torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(low, estimate, high)
