"""Run benches by name and keep their results as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.bench.clustering import V9
from collegium.bench.ensembles import V4
from collegium.bench.kinds import Bench, Finding, Progress
from collegium.bench.libraries import V6
from collegium.bench.merging import V7
from collegium.bench.routing import V10
from collegium.core.cards import to_json
from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.machine import machine_line, resident_bytes, today, versions
from collegium.core.tables import nearest

BENCHES: Mapping[str, Bench] = {bench.name: bench for bench in (V4, V6, V7, V9, V10)}
RESULTS = Path("bench/results")

_PACKAGES = ("collegium", "torch", "transformers", "safetensors", "numpy", "scikit-learn")


@dataclass(frozen=True)
class BenchResult:
    """What one bench found, on which machine, with which versions, when and by which command."""

    name: str
    what: str
    must: str
    quick: bool
    rows: Sequence[Mapping[str, Any]]
    ratios: Mapping[str, float]
    reached: Mapping[str, bool]
    largest_difference: float | None
    notes: Sequence[str]
    date: str
    command: str
    machine: str
    versions: Mapping[str, str]
    resident_mb: float


def choose_benches(names: Iterable[str] = (), benches: Mapping[str, Bench] = BENCHES) -> tuple[Bench, ...]:
    """Return the named benches (default: all); raises ConfigError for unknown names."""
    wanted = tuple(names) or tuple(benches)
    unknown = [f"there is no bench {name!r}. {nearest(name, benches)}" for name in wanted if name not in benches]
    if unknown:
        raise ConfigError(" ".join(unknown))
    return tuple(benches[name] for name in wanted)


def run_bench(
    names: Iterable[str] = (),
    *,
    quick: bool = False,
    folder: Path = RESULTS,
    command: str = "collegium bench run",
    progress: Progress = lambda line: None,
    benches: Mapping[str, Bench] = BENCHES,
) -> tuple[BenchResult, ...]:
    """Return the results of the named benches (default: all), each written to `folder`/NAME.json.

    quick: a pico model and small sizes, written as NAME-quick.json; its figures say nothing about the targets.

    A peer that is not installed is left out, and the result says how to install it.

    Raises ConfigError for unknown names.
    """
    results = []
    for bench in choose_benches(names, benches):
        progress(f"{bench.name}: {bench.what}")
        result = _result(bench, bench.run(quick, progress), quick=quick, command=command)
        write_text(folder / f"{bench.name}{'-quick' if quick else ''}.json", to_json(result))
        results.append(result)
    return tuple(results)


def _result(bench: Bench, found: Finding, *, quick: bool, command: str) -> BenchResult:
    return BenchResult(
        name=bench.name,
        what=bench.what,
        must=bench.must,
        quick=quick,
        rows=found.rows,
        ratios=found.ratios,
        reached={} if quick else found.reached(),
        largest_difference=found.largest_difference,
        notes=found.notes,
        date=today(),
        command=command,
        machine=machine_line(),
        versions=versions((*_PACKAGES, *bench.peers)),
        resident_mb=resident_bytes() / 1e6,
    )
