"""V6: a library of many experts: adding the n-th, opening, listing, loading."""

import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collegium.bench.kinds import Bench, Finding, Progress, Target
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
    return {"task": task, "experts": experts, **timing.row()}


def _loads(path: Path, names: Sequence[str]) -> Timing:
    library, seconds = Library(path), []
    for name in names:
        started = time.perf_counter()
        library[name]
        seconds.append(time.perf_counter() - started)
    return Timing(tuple(seconds))


def _run(quick: bool, progress: Progress) -> Finding:
    sizes, around = ((20, 40), 5) if quick else ((100, 1_000, 3_000, 10_000), _AROUND)
    base, rows, ratios = pico_base(), [], {}
    opened: dict[int, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "library"
        library = Library(path, base=base)
        first = Timing(tuple(_fill(library, base, 0, around)))
        rows.append(_row("add", around, first))
        for size in sizes:
            progress(f"V6: {size} experts")
            last = Timing(tuple(_fill(library, base, len(library), size)[-around:]))
            rows.append(_row("add", size, last))
            timings = alternate(
                {"open and count": lambda: _open(path), "list names": library.names, "rows": library.rows}, repeats=3
            )
            rows += [_row(task, size, timing) for task, timing in timings.items()]
            names = library.names()
            early, late = _loads(path, names[:around]), _loads(path, names[-around:])
            rows += [_row("load the first", size, early), _row("load the last", size, late)]
            opened[size] = timings["open and count"].least
            ratios |= {
                "last_add_over_first": last.median / first.median,
                "last_load_over_first": late.median / early.median,
                "list_seconds": timings["list names"].least,
            }
    ratios["open_1000_seconds"] = opened.get(1_000, opened[max(opened)])
    targets = (
        Target("last_load_over_first", "at most", 1.5),
        Target("list_seconds", "at most", 0.1),
        Target("open_1000_seconds", "at most", 1.0),
    )
    return Finding(rows, ratios, targets, notes=("figures of `last` and `list` are of the largest library",))


V6 = Bench(
    "V6",
    "library: n-th add, open with 1,000 experts, list 10,000, load",
    "the 1,000th load within 1.5x of the 1st, list 10,000 under 100 ms, open under 1 s",
    _run,
)
