"""Side by side: contestants in turn, the least and the median of several repeats."""

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Timing:
    """Seconds of each repeat of one contestant."""

    seconds: tuple[float, ...]

    @property
    def least(self) -> float:
        """The fastest repeat: what the code takes when nothing else runs."""
        return min(self.seconds)

    @property
    def median(self) -> float:
        """The middle repeat."""
        return statistics.median(self.seconds)

    def row(self) -> dict[str, float | int]:
        """Return both, in milliseconds, and how many repeats there were."""
        return {"min_ms": 1e3 * self.least, "median_ms": 1e3 * self.median, "repeats": len(self.seconds)}


def alternate(contestants: Mapping[str, Callable[[], object]], *, repeats: int = 5) -> dict[str, Timing]:
    """Return each contestant's timing; they take turns, after one turn each that is not counted.

    What slows the machine for a while slows all of them alike.

    >>> sorted(alternate({"a": lambda: None, "b": lambda: None}, repeats=2))
    ['a', 'b']
    """
    if repeats < 1:
        raise ValueError(f"a timing needs at least one repeat, got {repeats}.")
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(repeats + 1):
        for name, run in contestants.items():
            started = time.perf_counter()
            run()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: Timing(tuple(values)) for name, values in seconds.items()}
