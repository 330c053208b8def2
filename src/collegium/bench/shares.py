"""Where the time of a run goes: by operator of torch, and by Python module."""

import cProfile
import pstats
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

ENTRIES = 6
"""How many entries of each view are kept; the rest is left out."""

_WATCHED_SECONDS = 0.2
_MOST_RUNS = 100

OUTSIDE = "Python, outside of operators"


def profile_runs(runs: Mapping[str, Callable[[], object]], *, entries: int = ENTRIES) -> list[dict[str, Any]]:
    """Return the largest shares of each run's time, first by operator, then by module.

    Each run goes once without being watched, then as often as fills a fifth of a second, at most a hundred times.
    Watching costs time itself, most where there are many small calls, so these are shares and no timings.
    """
    found = []
    for name, run in runs.items():
        longer = _lasting(run)
        for view, shares in (("operator", by_operator(longer)), ("module", by_module(longer))):
            largest = sorted(shares.items(), key=lambda item: -item[1])[:entries]
            found += [{"of": name, "by": view, "name": what, "share": round(part, 4)} for what, part in largest]
    return found


def by_operator(run: Callable[[], object]) -> dict[str, float]:
    """Return operator -> its own share of a run's time, and what is left for Python between operators.

    >>> import torch
    >>> "aten::mm" in by_operator(lambda: torch.ones(64, 64) @ torch.ones(64, 64))
    True
    """
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CPU]) as watch:
        started = time.perf_counter()
        run()
        whole = 1e6 * (time.perf_counter() - started)
    own = {each.key: float(each.self_cpu_time_total) for each in watch.key_averages() if each.key.startswith("aten::")}
    whole = max(whole, sum(own.values()))
    return {OUTSIDE: 1 - sum(own.values()) / whole} | {name: time_us / whole for name, time_us in own.items()}


def by_module(run: Callable[[], object]) -> dict[str, float]:
    """Return Python module -> its share of a run's time, with the compiled functions that it calls itself.

    >>> round(sum(by_module(lambda: sorted(range(100_000))).values()), 6)
    1.0
    """
    watch = cProfile.Profile()
    watch.runcall(run)
    statistics: Any = pstats.Stats(watch)
    names = {
        getattr(module, "__file__", None): name for name, module in list(sys.modules.items()) if name != "__main__"
    }
    spent: dict[str, float] = defaultdict(float)
    for (file, _, _), (_, _, own, _, callers) in statistics.stats.items():
        if file != "~":  # anything but a compiled function, whose time is its callers'
            spent[_module(file, names)] += own
            continue
        for (caller, _, _), (_, _, part, _) in callers.items():
            spent[_module(caller, names)] += part
    whole = sum(spent.values()) or 1.0
    return {name: part / whole for name, part in spent.items()}


def _lasting(run: Callable[[], object]) -> Callable[[], None]:
    """Return as many runs as fill the watched time, after one that is not watched."""
    run()
    started = time.perf_counter()
    run()
    repeats = round(_WATCHED_SECONDS / max(time.perf_counter() - started, _WATCHED_SECONDS / _MOST_RUNS))

    def runs() -> None:
        for _ in range(max(1, repeats)):
            run()

    return runs


def _module(file: str, names: Mapping[str | None, str]) -> str:
    return "compiled functions" if file == "~" else names.get(file, Path(file).stem)
