"""`doctor`: what this machine is, how fast, and what fits."""

from dataclasses import asdict, dataclass, field
from typing import Any

from tyro.conf import OmitArgPrefixes

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.core.cache import cache_folder
from collegium.models import BASES, choose_device, choose_dtype, inspect_machine, pinned_folder
from collegium.recipes.common import Common

_BYTES = {"float32": 4, "bfloat16": 2}
_WORKING_BYTES = 1 << 30
"""Set aside for activations, caches and the system before saying what fits."""


@dataclass(frozen=True)
class DoctorConfig:
    """Look at this machine: device, measured speed in each dtype, memory, versions, and what fits."""

    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run_doctor(config: DoctorConfig, screen: Screen) -> Outcome:
    """Return the machine and what it can hold."""
    config.common.apply_threads()
    machine = inspect_machine(config.common.device)
    choose_dtype(config.common.dtype, choose_device(config.common.device))
    fits = largest_base(machine.free_memory_bytes)
    folder = cache_folder()
    value: dict[str, Any] = {
        **asdict(machine),
        "fits_parameters": fits,
        "cache": str(folder),
        "bases": {name: pinned_folder(name, pinned).is_dir() for name, pinned in BASES.items()},
    }
    screen.say(machine.line)
    screen.table(
        ("what", "value"),
        [
            ("device", machine.device),
            ("threads", f"{machine.threads} of {machine.cores} cores"),
            ("memory", f"{machine.free_memory_bytes / 2**30:.1f} of {machine.memory_bytes / 2**30:.1f} GiB free"),
            *((f"speed in {name}", f"{speed:,.0f} gigaflops") for name, speed in machine.gigaflops.items()),
            ("--dtype auto is", machine.dtype),
            *((f"largest base in {name}", f"{count / 1e9:.1f} billion parameters") for name, count in fits.items()),
            ("cache", str(folder)),
            *machine.versions.items(),
        ],
    )
    return Outcome(value)


def largest_base(free_bytes: int) -> dict[str, int]:
    """Return how many parameters of a base fit into free memory, for each dtype.

    >>> largest_base(5 << 30)["float32"]
    1073741824
    """
    usable = max(0, free_bytes - _WORKING_BYTES)
    return {name: usable // size for name, size in _BYTES.items()}


DOCTOR = Command(DoctorConfig, run_doctor)
