"""What an experiment is: pieces that are computed once each, and numbers read from them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Say = Callable[[str], None]
PieceResult = Mapping[str, Any]
SHARED = "shared"


def _no_rows(done: Mapping[str, PieceResult]) -> Sequence[Mapping[str, Any]]:
    return ()


@dataclass(frozen=True)
class Place:
    """Where and for whom a piece is computed.

    seed:   None for pieces that all seeds share.
    folder: this seed's folder for artefacts; `shared` is the folder that all seeds may read.
    done:   results of the shared pieces and of this seed's earlier ones.
    """

    seed: int | None
    folder: Path
    shared: Path
    done: Mapping[str, PieceResult]
    say: Say

    @property
    def number(self) -> int:
        """The seed; only a seed's own pieces may ask."""
        assert self.seed is not None, "a shared piece has no seed"
        return self.seed


@dataclass(frozen=True)
class Experiment:
    """A row of `EXPERIMENTS`.

    pieces:   names in order, computed for every seed; each lasts minutes at most, so that a run can stop between.
    once:     pieces that come before all seeds (a learning rate chosen once).
    run:      computes a piece: plain JSON out, artefacts into the place's folder.
    measure:  metrics of one seed, from its pieces.
    rows:     the experiment's table for one seed.
    settings: what the numbers depend on; a run folder of other settings is refused.
    """

    pieces: tuple[str, ...]
    run: Callable[[str, Place], PieceResult]
    measure: Callable[[Mapping[str, PieceResult]], Mapping[str, float]]
    once: tuple[str, ...] = ()
    rows: Callable[[Mapping[str, PieceResult]], Sequence[Mapping[str, Any]]] = _no_rows
    settings: Mapping[str, Any] = field(default_factory=dict)


def one_piece(name: str, compute: Callable[[Place], Mapping[str, float]]) -> Experiment:
    """Return the experiment of a law: one piece a seed, which is its numbers."""

    def run(piece: str, place: Place) -> PieceResult:
        del piece
        return compute(place)

    return Experiment(pieces=(name,), run=run, measure=lambda done: done[name])
