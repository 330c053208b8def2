"""What a bench is, and what it finds."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Target:
    """A ratio (or a figure) that must stay at most, or reach at least, a limit."""

    figure: str
    direction: Literal["at most", "at least"]
    limit: float

    def reached(self, value: float) -> bool:
        """Return whether a value is on the right side.

        >>> Target("slowdown", "at most", 3.7).reached(3.6)
        True
        """
        return value <= self.limit if self.direction == "at most" else value >= self.limit


@dataclass(frozen=True)
class Finding:
    """What a bench measured.

    rows:               one per contestant and size.
    ratios:             the figures that targets speak of.
    largest_difference: of the contestants' outputs, compared before anything is timed; None where there is no peer.
    """

    rows: Sequence[Mapping[str, Any]]
    ratios: Mapping[str, float]
    targets: Sequence[Target] = ()
    largest_difference: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)

    def reached(self) -> dict[str, bool]:
        """Return for each target whether it was reached; one whose figure was not measured is left out."""
        return {
            f"{each.figure} {each.direction} {each.limit:g}": each.reached(self.ratios[each.figure])
            for each in self.targets
            if each.figure in self.ratios
        }


@dataclass(frozen=True)
class Bench:
    """One row of performance.md: name, what is measured, what must be reached, the peers compared with."""

    name: str
    what: str
    must: str
    run: Callable[[bool, Progress], Finding]
    peers: tuple[str, ...] = ()
