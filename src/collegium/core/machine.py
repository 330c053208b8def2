"""What a figure was measured on."""

import importlib.metadata
import os
import platform
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path

import psutil
import torch


def machine_line() -> str:
    """Return one line: processor and what it calculates with, cores, threads, memory, accelerator, system, versions."""
    memory = psutil.virtual_memory().total / 2**30
    accelerator = torch.cuda.get_device_name() if torch.cuda.is_available() else "no accelerator"
    return (
        f"{_processor()} ({_instructions()}), {os.cpu_count()} cores, {torch.get_num_threads()} threads, "
        f"{memory:.0f} GiB, {accelerator}, {platform.system()} {platform.machine()}, "
        f"Python {platform.python_version()}, torch {torch.__version__}"
    )


def usable_cores() -> int:
    """Return how many cores this process may keep busy: its container's or its own share, OMP_NUM_THREADS at most."""
    from joblib import cpu_count

    asked = os.environ.get("OMP_NUM_THREADS", "")
    return min(cpu_count(), int(asked)) if asked.isdecimal() and int(asked) else cpu_count()


def versions(packages: Iterable[str]) -> dict[str, str]:
    """Return the installed version of each package, `absent` where there is none.

    >>> versions(["no-such-package"])
    {'no-such-package': 'absent'}
    """
    found = {}
    for package in packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "absent"
    return found


def today() -> str:
    """Return the date in UTC: 2026-01-31."""
    return datetime.now(UTC).date().isoformat()


def resident_bytes() -> int:
    """Return how much memory this process holds at the moment."""
    return psutil.Process().memory_info().rss


def _processor() -> str:
    names = [line.split(":", 1)[1].strip() for line in _cpuinfo() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown processor"


def _instructions() -> str:
    """Return the widest that torch uses: processors of one name differ in them, and by them in speed."""
    fast = any(line.startswith("flags") and "_bf16" in line for line in _cpuinfo())
    return torch.backends.cpu.get_cpu_capability() + (" with bfloat16" if fast else "")


def _cpuinfo() -> list[str]:
    information = Path("/proc/cpuinfo")
    return information.read_text().splitlines() if information.exists() else []
