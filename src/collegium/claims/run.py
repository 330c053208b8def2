"""Run claims piece by piece: what is finished stays, an interrupted run goes on, results come last."""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from collegium.claims.experiment import SHARED, Experiment, PieceResult, Place
from collegium.claims.experiments import EXPERIMENTS
from collegium.claims.ledger import LEDGER, Claim, read_ledger
from collegium.claims.results import RESULTS, Result, judge_claim, read_result, read_results, write_result
from collegium.claims.tables import keep_table
from collegium.core.cards import content_hash, to_json
from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.machine import machine_line, today
from collegium.core.tables import nearest

Progress = Callable[[str], None]
_JUDGED = "judged.json"


@dataclass(frozen=True)
class Outcome:
    """What became of one claim: measured now, kept from an earlier run, or not finished within the budget."""

    claim: Claim
    state: Literal["measured", "kept", "unfinished"]
    result: Result | None


@dataclass(frozen=True)
class ClaimState:
    """One line of `claims list`: a ledger row and its result, None if it was not run."""

    claim: Claim
    result: Result | None


def list_claims(*, ledger: Path = LEDGER, results: Path = RESULTS) -> tuple[ClaimState, ...]:
    """Return every ledger row with its result."""
    found = read_results(results)
    return tuple(ClaimState(claim, found.get(claim.key)) for claim in read_ledger(ledger))


def run_claims(
    ids: Iterable[str] = (),
    scale: str | None = None,
    *,
    folder: Path,
    budget_seconds: float | None = None,
    replace: bool = False,
    command: str = "collegium claims run",
    progress: Progress = lambda line: None,
    ledger: Path = LEDGER,
    results: Path = RESULTS,
    experiments: Mapping[str, Experiment] = EXPERIMENTS,
) -> tuple[Outcome, ...]:
    """Return what became of the chosen claims (default: all of the scale, or of every scale).

    Pieces are stored in `folder`, so that an interrupted run, or one that stopped after the piece in which its budget
    ran out, goes on where it was. A claim with a result is kept unless `replace` is set; then pieces that it was
    judged from before are put aside and computed anew.
    """
    stop_at = None if budget_seconds is None else time.monotonic() + budget_seconds
    outcomes = []
    for claim in choose_claims(read_ledger(ledger), ids, scale):
        path = results / f"{claim.key}.json"
        if path.exists() and not replace:
            outcomes.append(Outcome(claim, "kept", read_result(path)))
            progress(f"{claim.key}: kept, has a result")
            continue
        experiment = experiments.get(claim.experiment)
        if experiment is None:
            raise ConfigError(
                f"{claim.key}: no experiment {claim.experiment!r}. {nearest(claim.experiment, experiments)}"
            )
        place = folder / claim.experiment
        if replace and claim.key in _judged(place):
            put_aside(place)
        done = _Runner(experiment, place, stop_at, progress).seeds(claim.seeds)
        if done is None:
            outcomes.append(Outcome(claim, "unfinished", None))
            continue
        result = _result(claim, experiment, done, command, folder=results)
        write_result(result, folder=results, replace=replace)
        write_text(place / _JUDGED, to_json(sorted({*_judged(place), claim.key})))
        progress(f"{claim.key}: {result.verdict}")
        outcomes.append(Outcome(claim, "measured", result))
    return tuple(outcomes)


def _judged(place: Path) -> list[str]:
    """Return the claims that were judged from the pieces in a folder."""
    path = place / _JUDGED
    return json.loads(path.read_text()) if path.exists() else []


def put_aside(place: Path) -> Path:
    """Move an experiment's finished pieces to the next free NAME-old-N, so that all is measured anew; return where."""
    number = next(number for number in itertools.count(1) if not (place.parent / f"{place.name}-old-{number}").exists())
    return place.rename(place.parent / f"{place.name}-old-{number}")


def choose_claims(claims: tuple[Claim, ...], ids: Iterable[str], scale: str | None) -> tuple[Claim, ...]:
    """Return the claims of these ids (all if none are named) and this scale; raises ConfigError for unknown ones."""
    wanted = tuple(ids)
    known = {claim.id for claim in claims}
    unknown = [f"there is no claim {each!r}. {nearest(each, known)}" for each in wanted if each not in known]
    if unknown:
        raise ConfigError(" ".join(unknown))
    chosen = tuple(
        claim for claim in claims if (not wanted or claim.id in wanted) and (scale is None or claim.scale == scale)
    )
    if not chosen:
        scales = sorted({claim.scale for claim in claims if not wanted or claim.id in wanted})
        raise ConfigError(
            f"no claim of scale {scale!r} among {', '.join(wanted) or 'all'}; scales: {', '.join(scales)}."
        )
    return chosen


def _result(
    claim: Claim,
    experiment: Experiment,
    done: Mapping[int, Mapping[str, dict[str, Any]]],
    command: str,
    *,
    folder: Path,
) -> Result:
    plain = {seed: {name: piece["result"] for name, piece in pieces.items()} for seed, pieces in done.items()}
    verdict, parts = judge_claim(claim, {seed: experiment.measure(pieces) for seed, pieces in plain.items()})
    pieces = [piece for each in done.values() for piece in each.values()]
    rows = [{"seed": seed, **row} for seed, each in plain.items() for row in experiment.rows(each)]
    stored = {(piece["seed"], piece["piece"]): piece["seconds"] for piece in pieces}
    return Result(
        id=claim.id,
        scale=claim.scale,
        claim_hash=claim.hash,
        verdict=verdict,
        parts=parts,
        seeds=claim.seeds,
        date=max(piece["date"] for piece in pieces),
        command=command,
        machine="; ".join(sorted({piece["machine"] for piece in pieces})),
        seconds=round(sum(stored.values()), 1),
        table=keep_table(rows, label=claim.experiment, folder=folder),
    )


@dataclass(frozen=True)
class _Runner:
    """Computes the pieces of one experiment that its folder lacks."""

    experiment: Experiment
    folder: Path
    stop_at: float | None
    progress: Progress

    def seeds(self, seeds: Iterable[int]) -> dict[int, dict[str, dict[str, Any]]] | None:
        """Return every seed's pieces, None when the budget ended before the last."""
        self._check_settings()
        shared = self._pieces(self.experiment.once, None, {})
        if shared is None:
            return None
        done = {}
        for seed in seeds:
            pieces = self._pieces(self.experiment.pieces, seed, shared)
            if pieces is None:
                return None
            done[seed] = pieces
        return done

    def _check_settings(self) -> None:
        """Refuse a run folder whose pieces were computed with other settings."""
        path, own = self.folder / "settings.json", to_json(dict(self.experiment.settings))
        if not path.exists():
            write_text(path, own)
        elif content_hash(json.loads(path.read_text())) != content_hash(json.loads(own)):
            raise ConfigError(
                f"{self.folder} holds pieces of an experiment with other settings (settings.json). "
                "Choose another run folder, or remove that one."
            )

    def _pieces(
        self, names: tuple[str, ...], seed: int | None, before: dict[str, dict[str, Any]]
    ) -> dict[str, dict[str, Any]] | None:
        label = SHARED if seed is None else f"seed-{seed}"
        done = dict(before)
        for name in names:
            path = self.folder / label / f"{name}.json"
            if path.exists():
                done[name] = json.loads(path.read_text())
                continue
            if self.stop_at is not None and time.monotonic() >= self.stop_at:
                self.progress(f"budget spent before {label} {name}; run the same command again to go on")
                return None
            path.parent.mkdir(parents=True, exist_ok=True)
            results: dict[str, PieceResult] = {key: piece["result"] for key, piece in done.items()}
            place = Place(seed, path.parent, self.folder / SHARED, results, self.progress)
            done[name] = self._compute(name, place, path)
        return done

    def _compute(self, name: str, place: Place, path: Path) -> dict[str, Any]:
        started = time.monotonic()
        self.progress(f"{path.parent.name} {name} ...")
        result = self.experiment.run(name, place)
        piece = {
            "piece": name,
            "seed": place.seed,
            "result": result,
            "seconds": time.monotonic() - started,
            "date": today(),
            "machine": machine_line(),
        }
        write_text(path, to_json(piece))
        self.progress(f"{path.parent.name} {name}: {piece['seconds']:.1f} s")
        return json.loads(to_json(piece))
