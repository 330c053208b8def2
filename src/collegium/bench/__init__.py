"""Side-by-side measurements: speed and memory against peers, with machine, versions and date."""

from collegium.bench.curves import exponent, growth
from collegium.bench.kinds import Bench, Finding, Target
from collegium.bench.run import BENCHES, RESULTS, BenchResult, choose_benches, run_bench
from collegium.bench.timing import Timing, alternate

__all__ = [
    "BENCHES",
    "RESULTS",
    "Bench",
    "BenchResult",
    "Finding",
    "Target",
    "Timing",
    "alternate",
    "choose_benches",
    "exponent",
    "growth",
    "run_bench",
]
