"""Results: what a run of a claim measured, kept beside the ledger and never overwritten silently."""

import dataclasses
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from collegium.claims.ledger import Claim
from collegium.claims.verdict import Verdict, judge, seed_interval, together
from collegium.core.cards import to_json
from collegium.core.errors import ConfigError
from collegium.core.files import write_text

RESULTS = Path(__file__).parent / "results"


@dataclass(frozen=True)
class PartResult:
    """One metric: a number per seed, their mean, the 95 % interval (None = without bound) and the verdict."""

    metric: str
    values: tuple[float, ...]
    estimate: float
    low: float | None
    high: float | None
    verdict: Verdict


@dataclass(frozen=True)
class Result:
    """What one run of a claim gave.

    claim_hash: the ledger row it was measured for.
    table:      name of the experiment's table in `tables` (perplexity, parameters, tokens, seconds ... of every model,
                per seed), which claims of one run share; "" = none.
    analysis:   why, in words; required once the verdict is `fails`.
    earlier:    results that this one replaced.
    """

    id: str
    scale: str
    claim_hash: str
    verdict: Verdict
    parts: tuple[PartResult, ...]
    seeds: tuple[int, ...]
    date: str
    command: str
    machine: str
    seconds: float
    table: str = ""
    analysis: str = ""
    earlier: tuple[Mapping[str, Any], ...] = ()

    @property
    def key(self) -> str:
        """The key of its claim: M2-toy."""
        return f"{self.id}-{self.scale}"


def judge_claim(claim: Claim, measured: Mapping[int, Mapping[str, float]]) -> tuple[Verdict, tuple[PartResult, ...]]:
    """Return the verdict on a claim and on its parts, given each seed's metrics.

    Raises ConfigError when the experiment did not measure a metric for a seed of the ledger.
    """
    parts = []
    for part in claim.parts:
        lacking = [seed for seed in claim.seeds if part.metric not in measured.get(seed, {})]
        if lacking:
            known = sorted({name for metrics in measured.values() for name in metrics})
            raise ConfigError(f"{claim.key}: no {part.metric!r} for seeds {lacking}; measured: {', '.join(known)}.")
        values = tuple(float(measured[seed][part.metric]) for seed in claim.seeds)
        interval = seed_interval(values)
        bounds = [bound if math.isfinite(bound) else None for bound in (interval.low, interval.high)]
        verdict = judge(values, direction=part.direction, margin=part.margin)
        parts.append(PartResult(part.metric, values, interval.estimate, bounds[0], bounds[1], verdict))
    return together(part.verdict for part in parts), tuple(parts)


def write_result(result: Result, *, folder: Path = RESULTS, replace: bool = False) -> Path:
    """Return the file of a result, written whole or not at all.

    Raises ConfigError when the claim has a result already and `replace` is not set; a replaced result stays in
    `earlier` of the new one.
    """
    path = folder / f"{result.key}.json"
    content = asdict(result)
    if path.exists():
        old = read_result(path)
        if not replace:
            raise ConfigError(
                f"{result.key} has a result of {old.date} ({old.verdict}). Results are not overwritten: run with "
                "`--replace`, which keeps the old one in its history."
            )
        content["earlier"] = [*old.earlier, {key: value for key, value in asdict(old).items() if key != "earlier"}]
    write_text(path, to_json(content))
    return path


def read_result(path: Path) -> Result:
    """Return the result in a file; raises ConfigError when it does not hold exactly the fields of a result."""
    try:
        raw = json.loads(path.read_text())
        parts = tuple(PartResult(**{**part, "values": tuple(part["values"])}) for part in raw.pop("parts"))
        for key in ("seeds", "earlier"):
            raw[key] = tuple(raw[key])
        result = Result(parts=parts, **raw)
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ConfigError(
            f"{path.name} does not hold a result ({error}); fields: {', '.join(each.name for each in fields(Result))}."
        ) from error
    if path.stem != result.key or result.verdict not in get_args(Verdict):
        raise ConfigError(f"{path.name} holds {result.key} with verdict {result.verdict!r}; it must name its file.")
    return result


def read_results(folder: Path = RESULTS) -> dict[str, Result]:
    """Return every result of a folder by its claim's key."""
    return {path.stem: read_result(path) for path in sorted(folder.glob("*.json"))}


def add_analysis(key: str, text: str, *, folder: Path = RESULTS) -> Path:
    """Return the file of a result that now says why: what a failed claim owes its readers.

    Raises ConfigError when there is no such result, or nothing is said.
    """
    path = folder / f"{key}.json"
    if not path.exists() or not text.strip():
        raise ConfigError(f"an analysis needs a result and words; got {key!r} and {len(text.strip())} characters.")
    write_text(path, to_json(dataclasses.replace(read_result(path), analysis=text.strip())))
    return path


def problems(claims: tuple[Claim, ...], results: Mapping[str, Result]) -> list[str]:
    """Return what is wrong between ledger and results: no such row, another row, other verdict, no analysis."""
    rows, found = {claim.key: claim for claim in claims}, []
    for key, result in results.items():
        if key not in rows:
            found.append(f"{key}: there is a result but no row in the ledger.")
            continue
        if result.claim_hash != rows[key].hash:
            found.append(f"{key}: the row changed after the run of {result.date}; run it again.")
        elif _judged_again(rows[key], result) != (result.verdict, result.parts):
            found.append(f"{key}: the numbers do not give the intervals and verdicts that it states.")
        if result.verdict == "fails" and not result.analysis.strip():
            found.append(f"{key}: failed, and `analysis` says nothing about why.")
    return found


def _judged_again(claim: Claim, result: Result) -> tuple[Verdict, tuple[PartResult, ...]]:
    values = {part.metric: part.values for part in result.parts}
    measured = {
        seed: {metric: numbers[position] for metric, numbers in values.items()}
        for position, seed in enumerate(result.seeds)
    }
    return judge_claim(claim, measured)
