"""Side by side: contestants in turn, the least and the median of several repeats, and peak memory."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from collegium.bench.memory import peak_bytes


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat of one contestant.

    peak_bytes: the most memory held during its first turn, which is not timed, less what was held before; None where
    it was not watched. What a contestant builds once and keeps (stacked weights) counts.
    """

    seconds: tuple[float, ...]
    peak_bytes: int | None = None

    @property
    def least(self) -> float:
        """The fastest repeat: what the code takes when nothing else runs."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle repeat."""
        return statistics.median(self.seconds)

    def row(self) -> dict[str, float | int | None]:
        """Return both, in milliseconds, how many repeats there were, and the peak of memory in MB."""
        peak = None if self.peak_bytes is None else round(self.peak_bytes / 1e6, 1)
        return {
            "min_ms": 1e3 * self.least,
            "median_ms": 1e3 * self.median,
            "repeats": len(self.seconds),
            "peak_mb": peak,
        }


def alternate(contestants: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, Timing]:
    """Return each contestant's timing; they take turns, after one turn each whose memory is watched instead.

    What slows the machine for a while slows all of them alike.

    >>> sorted(alternate({"a": lambda: None, "b": lambda: None}, repeats=2))
    ['a', 'b']
    """
    if repeats < 1:
        raise ValueError(f"a timing needs at least one repeat, got {repeats}.")
    peaks = {name: peak_bytes(run) for name, run in contestants.items()}
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for _ in range(repeats):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values), peaks[name]) for name, values in seconds.items()}
