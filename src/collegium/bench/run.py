"""Run benches by name and keep their results as JSON."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from collegium.bench.aligning import V14
from collegium.bench.clustering import V9
from collegium.bench.engine import V13
from collegium.bench.ensembles import V4
from collegium.bench.judge_training import V11_TRAINING
from collegium.bench.kinds import Bench, Finding, Progress
from collegium.bench.libraries import V6
from collegium.bench.merging import V7
from collegium.bench.mixed import V3
from collegium.bench.rewards import V11
from collegium.bench.routing import V10
from collegium.bench.shares import profile_runs
from collegium.bench.streams import V15
from collegium.bench.token_gates import V1, V2
from collegium.bench.training import V5
from collegium.bench.whole_models import V8
from collegium.core.cards import to_json
from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.core.machine import machine_line, resident_bytes, today, versions
from collegium.core.tables import nearest

BENCHES: Mapping[str, Bench] = {
    bench.name: bench for bench in (V1, V2, V3, V4, V5, V6, V7, V8, V9, V10, V11, V11_TRAINING, V13, V14, V15)
}
RESULTS = Path("bench/results")

_QUICK = "a quick run measures no target: small models, small sizes"
_PACKAGES = ("collegium", "torch", "transformers", "safetensors", "numpy", "scikit-learn")


@dataclass(frozen=True)
class BenchResult:
    """What one bench found, on which machine, with which versions, when and by which command.

    targets: each with its name, the target in words, the figure got (None = not measured) and whether it is reached.
    reached: whether all of them are.
    growth:  size, least ms and the fitted exponent of every curve (see `growth`).
    roles:   which contestants are `ours`, the `peer` and the `base`.
    profile: the largest shares of our time by operator and by module; empty unless asked for.
    """

    name: str
    what: str
    must: str
    quick: bool
    rows: Sequence[Mapping[str, Any]]
    targets: Sequence[Mapping[str, Any]]
    reached: bool
    growth: Sequence[Mapping[str, Any]]
    ratios: Mapping[str, float]
    largest_difference: float | None
    roles: Mapping[str, str]
    peers: Sequence[str]
    profile: Sequence[Mapping[str, Any]]
    notes: Sequence[str]
    date: str
    command: str
    machine: str
    versions: Mapping[str, str]
    resident_mb: float

    @property
    def plain(self) -> dict[str, Any]:
        """Everything as plain values, as it stands in files and is given to programs."""
        return asdict(self)


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
    profile: bool = False,
    folder: Path = RESULTS,
    command: str = "collegium bench run",
    progress: Progress = lambda line: None,
    benches: Mapping[str, Bench] = BENCHES,
) -> tuple[BenchResult, ...]:
    """Return the results of the named benches (default: all), each written to `folder`/NAME.json.

    quick:   a pico model and small sizes, written as NAME-quick.json; its figures say nothing about the targets.
    profile: look afterwards into where our time goes.

    A peer that is not installed is left out, and the result says how to install it.

    Raises ConfigError for unknown names.
    """
    results = []
    for bench in choose_benches(names, benches):
        progress(f"{bench.name}: {bench.what}")
        found = bench.run(quick, progress)
        result = _result(bench, found, quick=quick, command=command, shares=_shares(bench, quick, profile, progress))
        write_text(folder / f"{bench.name}{'-quick' if quick else ''}.json", to_json(result.plain))
        results.append(result)
    return tuple(results)


def _shares(bench: Bench, quick: bool, wanted: bool, progress: Progress) -> list[dict[str, Any]]:
    if not wanted or bench.profiled is None:
        return []
    progress(f"{bench.name}: where the time goes")
    return profile_runs(bench.profiled(quick))


def _result(
    bench: Bench, found: Finding, *, quick: bool, command: str, shares: Sequence[Mapping[str, Any]]
) -> BenchResult:
    targets = found.judged(measured=not quick)
    return BenchResult(
        name=bench.name,
        what=bench.what,
        must=bench.must,
        quick=quick,
        rows=found.rows,
        targets=targets,
        reached=all(each["reached"] for each in targets),
        growth=found.growth,
        ratios=found.ratios,
        largest_difference=found.largest_difference,
        roles=found.roles,
        peers=bench.peers,
        profile=shares,
        notes=(*found.notes, *((_QUICK,) if quick else ())),
        date=today(),
        command=command,
        machine=machine_line(),
        versions=versions((*_PACKAGES, *bench.peers)),
        resident_mb=resident_bytes() / 1e6,
    )
