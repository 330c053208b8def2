"""V6: a library of many experts: adding the n-th, opening, listing, loading; and the n-th load beside PEFT's."""

import atexit
import functools
import shutil
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.loading import OURS, PEER, nth_loads
from collegium.bench.peers import NO_PEFT
from collegium.bench.timing import Timing, alternate
from collegium.core.cards import ExpertCard
from collegium.experts import Expert, adapter_payload
from collegium.library import Library
from collegium.models import Base
from collegium.testing.pico import pico_base, random_adapter

_AROUND = 20


def tiny_expert(base: Base, number: int) -> Expert:
    """Return an expert of rank 1 on one layer: what is measured is the library, not the payload."""
    adapter = random_adapter(base, number, rank=1, targets=["q_proj"], layers="top:1")
    card = ExpertCard(name=f"expert-{number:05d}", kind="lora", base=base.fingerprint)
    return Expert(card, adapter_payload(base, adapter))


def _fill(library: Library, base: Base, start: int, end: int) -> list[float]:
    seconds = []
    for number in range(start, end):
        expert = tiny_expert(base, number)
        started = time.perf_counter()
        library.add(expert)
        seconds.append(time.perf_counter() - started)
    return seconds


def _open(path: Path) -> int:
    return len(Library(path))


def _row(task: str, experts: int, timing: Timing) -> dict[str, Any]:
    return {"task": task, "contestant": OURS, "experts": experts, **timing.row()}


def _loads(path: Path, names: Sequence[str]) -> Timing:
    library, seconds = Library(path), []
    for name in names:
        started = time.perf_counter()
        library[name]
        seconds.append(time.perf_counter() - started)
    return Timing(tuple(seconds))


def _run(quick: bool, progress: Progress) -> Finding:
    sizes, around = ((10, 20, 30, 40), 5) if quick else ((100, 1_000, 3_000, 10_000), _AROUND)
    curves: dict[str, dict[int, Timing]] = {}
    with tempfile.TemporaryDirectory() as folder:
        first = _grow(Path(folder) / "library", sizes, around, curves, progress)
    rows = [_row("add", around, first)]
    rows += [_row(task, size, timing) for task, timings in curves.items() for size, timing in timings.items()]
    points = [point for task, timings in curves.items() for point in growth(task, "experts", timings)]
    last, opened = max(sizes), curves["open and count"]
    ratios = {
        "last_add_over_first": curves["add"][last].median / first.median,
        "last_load_over_first": curves["load the last"][last].median / curves["load the first"][last].median,
        "list_seconds": curves["list names"][last].least,
        "open_1000_seconds": opened.get(1_000, opened[last]).least,
    }
    progress("V6: the n-th load beside PEFT")
    loads = nth_loads(quick, repeats=2 if quick else 5)
    for contestant, timings in loads.timings.items():
        points += growth(f"n-th load, {contestant}", "experts loaded", timings)
        start, end = min(timings), max(timings)
        ratios[f"nth_load_{contestant.split()[0]}_over_first"] = timings[end].least / timings[start].least
        rows += [
            {"task": "n-th load", "contestant": contestant, "experts": size, **timing.row()}
            for size, timing in timings.items()
        ]
    notes = ("figures of `last` and `list` are of the largest library", "the n-th load beside PEFT is on shape toy")
    if PEER in loads.timings:
        end = max(loads.timings[PEER])
        ratios["nth_load_speedup"] = loads.timings[PEER][end].least / loads.timings[OURS][end].least
    else:
        notes = (*notes, NO_PEFT)
    return Finding(rows, ratios, _TARGETS, loads.largest_difference, notes, points, {"ours": OURS, "peer": PEER})


def _grow(
    path: Path, sizes: Sequence[int], around: int, curves: dict[str, dict[int, Timing]], progress: Progress
) -> Timing:
    """Fill a library, take its timings at each size, and return those of the first experts added."""
    base = pico_base()
    library = Library(path, base=base)
    first = Timing(tuple(_fill(library, base, 0, around)))
    for size in sizes:
        progress(f"V6: {size} experts")
        found = {"add": Timing(tuple(_fill(library, base, len(library), size)[-around:]))}
        found |= alternate(
            {"open and count": functools.partial(_open, path), "list names": library.names, "rows": library.rows},
            repeats=3,
        )
        names = library.names()
        found["load the first"], found["load the last"] = _loads(path, names[:around]), _loads(path, names[-around:])
        for task, timing in found.items():
            curves.setdefault(task, {})[size] = timing
    return first


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    base, folder = pico_base(), Path(tempfile.mkdtemp(prefix="collegium-bench-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    library = Library(folder / "library", base=base)
    _fill(library, base, 0, 20 if quick else 1_000)
    name = library.names()[-1]

    def load() -> None:
        library.forget(name)
        library[name]

    return {"listing 1,000 names": library.names, "loading an expert": load}


_TARGETS = (
    Target("last_load_over_first", "at most", 1.5),
    Target("list_seconds", "at most", 0.1),
    Target("open_1000_seconds", "at most", 1.0),
)

V6 = Bench(
    "V6",
    "library: n-th add, open with 1,000 experts, list 10,000, load; the n-th load beside PEFT's `load_adapter`",
    "the 1,000th load within 1.5x of the 1st, list 10,000 under 100 ms, open under 1 s",
    _run,
    peers=("peft",),
    profiled=_profiled,
)
