"""Experts trained by one and by two processes, a thread for each expert: the same weights, and how long each took."""

import dataclasses
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from collegium.data import Domain
from collegium.experts import FitConfig, fit_experts
from collegium.models import Base


def compare_workers(base: Base, domains: Sequence[Domain], config: FitConfig) -> dict[str, float]:
    """Return seconds at one and at two workers, and how many experts differ between the two."""
    config = dataclasses.replace(config, threads=1)
    seconds, digests = {}, {}
    for workers in (1, 2):
        started = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            done = fit_experts(base, domains, config=config, work=Path(folder), workers=workers)
        seconds[workers] = time.perf_counter() - started
        digests[workers] = [None if each.expert is None else each.expert.digest for each in done]
    differing = sum(one is None or one != two for one, two in zip(digests[1], digests[2], strict=True))
    return {"one_seconds": seconds[1], "two_seconds": seconds[2], "differing": differing}
