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

    @property
    def words(self) -> str:
        """Direction and limit: `at most 3.7`."""
        return f"{self.direction} {self.limit:g}"

    def reached(self, value: float) -> bool:
        """Return whether a value is on the right side.

        >>> Target("slowdown", "at most", 3.7).reached(3.6)
        True
        """
        return value <= self.limit if self.direction == "at most" else value >= self.limit


@dataclass(frozen=True)
class Finding:
    """What a bench measured.

    rows:               one per contestant and size: least and median time, peak memory.
    ratios:             the figures that targets speak of.
    largest_difference: of the contestants' outputs, compared before anything is timed; None where there is no peer.
    growth:             the points of each curve of cost over size, with the exponent fitted (see `growth`).
    roles:              which contestants of the rows are `ours`, the `peer` and the `base`.
    """

    rows: Sequence[Mapping[str, Any]]
    ratios: Mapping[str, float]
    targets: Sequence[Target] = ()
    largest_difference: float | None = None
    notes: Sequence[str] = field(default_factory=tuple)
    growth: Sequence[Mapping[str, Any]] = ()
    roles: Mapping[str, str] = field(default_factory=dict)

    def judged(self, *, measured: bool = True) -> list[dict[str, Any]]:
        """Return each target with the figure got; what was not measured (no peer, a quick run) is not reached.

        >>> Finding([], {"slowdown": 2.0}, (Target("slowdown", "at most", 1.5),)).judged()
        [{'name': 'slowdown', 'target': 'at most 1.5', 'got': 2.0, 'reached': False}]
        """
        figures = self.ratios if measured else {}
        judged = []
        for each in self.targets:
            got = figures.get(each.figure)
            reached = got is not None and each.reached(got)
            judged.append({"name": each.figure, "target": each.words, "got": got, "reached": reached})
        return judged


@dataclass(frozen=True)
class Bench:
    """One row of performance.md: name, what is measured, what must be reached, the peers compared with.

    profiled: gives what to look into, by name: runs of ours at the size that the targets speak of.
    """

    name: str
    what: str
    must: str
    run: Callable[[bool, Progress], Finding]
    peers: tuple[str, ...] = ()
    profiled: Callable[[bool], Mapping[str, Callable[[], object]]] | None = None
