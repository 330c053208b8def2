"""`bench run / list`: side-by-side measurements."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from collegium.bench import RESULTS, BenchResult, choose_benches, run_bench
from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.common import Common


@dataclass(frozen=True)
class BenchListConfig:
    """List the benches: what each measures and must reach."""

    common: Common = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class BenchRunConfig:
    """Measure side by side with the peers, outputs compared first; results are kept as JSON."""

    names: Positional[tuple[str, ...]] = ()
    """Benches such as V4 V9; default = all."""
    quick: bool = False
    """A pico model and small sizes, to see that it runs; its figures say nothing."""
    profile: bool = False
    """Also look into where our own time goes, by operator and by module."""
    out: Path = RESULTS
    """Where results go, NAME.json each."""
    dry_run: bool = False
    """List what would be measured, then stop."""
    common: Common = field(default_factory=Common)
    """Seed and machine."""


def run_list_benches(config: BenchListConfig, screen: Screen) -> Outcome:
    """Return every bench with what it must reach."""
    del config
    return _listed((), screen)


def _listed(names: tuple[str, ...], screen: Screen) -> Outcome:
    rows = [
        {"name": bench.name, "what": bench.what, "must": bench.must, "peers": list(bench.peers)}
        for bench in choose_benches(names)
    ]
    screen.table(("bench", "measures", "must"), [(row["name"], row["what"], row["must"]) for row in rows])
    return Outcome({"benches": rows}, rows)


def run_run_bench(config: BenchRunConfig, screen: Screen) -> Outcome:
    """Return what each bench found, with date, machine and versions."""
    config.common.apply_threads()
    if config.dry_run:
        return _listed(config.names, screen)
    flags = [flag for flag, given in (("--quick", config.quick), ("--profile", config.profile)) if given]
    found = run_bench(
        config.names,
        quick=config.quick,
        profile=config.profile,
        folder=config.out,
        command=" ".join(["collegium bench run", *config.names, *flags]),
        progress=screen.say,
    )
    for result in found:
        _show(result, screen)
    plain = {result.name: result.plain for result in found}
    return Outcome(plain, list(plain.values()))


def _show(result: BenchResult, screen: Screen) -> None:
    for row in result.rows:
        screen.say("  " + ", ".join(f"{key} {_short(value)}" for key, value in row.items()))
    for curve, exponent in {each["curve"]: each["exponent"] for each in result.growth}.items():
        screen.say(f"{result.name}: {curve} grows as size ** {exponent:.2f}")
    for each in result.profile:
        screen.say(f"{result.name}: {each['of']}: {each['share']:.0%} {each['name']} ({each['by']})")
    for target in [] if result.quick else result.targets:
        verdict = "reached" if target["reached"] else "missed" if target["got"] is not None else "not measured"
        screen.say(f"{result.name}: {verdict}: {target['name']} {target['target']} (got {_short(target['got'])})")
    for note in result.notes:
        screen.say(f"{result.name}: {note}")


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


BENCH = Group(
    "Side-by-side measurements of speed and memory.",
    {
        "run": Command(BenchRunConfig, run_run_bench, memory_flag="--threads"),
        "list": Command(BenchListConfig, run_list_benches),
    },
)
