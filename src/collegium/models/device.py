"""Where and in which numbers a base runs; measured, not guessed."""

import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psutil
import torch

from collegium.core.cache import cache_folder
from collegium.core.errors import CollegiumError, ConfigError, ResourceError
from collegium.core.files import write_text
from collegium.core.machine import machine_line, versions
from collegium.core.tables import nearest

DEVICES = ("auto", "cpu", "cuda", "mps")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
_WORTH_IT = 1.2
"""bfloat16 costs exactness, so it must be this much faster to be chosen."""
_SHAPE = (512, 576, 1536)
_LARGE_SHAPE = (4096, 4096, 4096)
"""For accelerators, where a small product measures how long it takes to ask for one."""
_REPEATS = 5
_OUT_OF_MEMORY = (
    "not enough memory",
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "defaultcpuallocator",
    "bad_alloc",
    "bad allocation",
    "status_alloc_failed",
)
"""What the allocators of processors, CUDA, MPS, C++ and the system say, in small letters."""


@dataclass(frozen=True)
class Machine:
    """What `doctor` tells: the machine in one line, its parts, and how fast it multiplies in each dtype.

    memory_bytes, free_memory_bytes: of the device.
    gigaflops: dtype -> 10^9 multiplications and additions a second, measured just now.
    """

    line: str
    device: str
    cores: int
    threads: int
    memory_bytes: int
    free_memory_bytes: int
    gigaflops: dict[str, float]
    dtype: str
    versions: dict[str, str]


def choose_device(name: str) -> torch.device:
    """Return the device that `auto`, `cpu`, `cuda` or `mps` means here; raises ConfigError when it is not there."""
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return torch.device(next(device for device in ("cuda", "mps", "cpu") if there[device]))
    if name not in there:
        raise ConfigError(f"a device is one of {', '.join(DEVICES)}, got {name!r}. {nearest(name, DEVICES)}")
    if not there[name]:
        raise ConfigError(f"this machine has no {name} device that torch can use; run with --device cpu or auto.")
    return torch.device(name)


def choose_dtype(name: str, device: torch.device) -> torch.dtype:
    """Return the dtype that a name means; `auto` is bfloat16 where a measured product is at least 1.2 times faster."""
    if name == "auto":
        speed = dtype_speeds(device)
        name = "bfloat16" if speed["bfloat16"] >= _WORTH_IT * speed["float32"] else "float32"
    if name not in DTYPES:
        known = ["auto", *DTYPES]
        raise ConfigError(f"a dtype is one of {', '.join(known)}, got {name!r}. {nearest(name, known)}")
    return DTYPES[name]


def dtype_speeds(device: torch.device, *, again: bool = False) -> dict[str, float]:
    """Return dtype -> gigaflops of a product, on a CPU as in a small model; measured once per machine and threads.

    again: measure once more, as `doctor` does: the first time may have been a busy one.
    """
    processor = torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine()
    shares = f"{torch.get_num_threads()} threads of {os.cpu_count()} cores"
    key = f"{device.type}, {processor}, {shares}, torch {torch.__version__}"
    note = cache_folder() / "speed.json"
    try:
        known = json.loads(note.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    if again or key not in known:
        known[key] = {name: _gigaflops(dtype, device) for name, dtype in DTYPES.items()}
        write_text(note, json.dumps(known, indent=2, sort_keys=True))
    return known[key]


def inspect_machine(device: str = "auto") -> Machine:
    """Return what this machine is, measured anew, and which dtype `auto` chooses on it from now on."""
    place = choose_device(device)
    free, total = memory_of(place)
    return Machine(
        line=machine_line(),
        device=str(place),
        cores=os.cpu_count() or 1,
        threads=torch.get_num_threads(),
        memory_bytes=total,
        free_memory_bytes=free,
        gigaflops=dtype_speeds(place, again=True),
        dtype=str(choose_dtype("auto", place)).removeprefix("torch."),
        versions=versions(["torch", "transformers", "tokenizers", "safetensors", "numpy"]),
    )


def memory_of(device: torch.device) -> tuple[int, int]:
    """Return the free bytes and all bytes of the memory that tensors of a device lie in."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)
    memory = psutil.virtual_memory()
    return memory.available, memory.total


@contextmanager
def memory_errors(flag: str) -> Iterator[None]:
    """Turn exhausted memory into a ResourceError that names the flag to lower, as in `memory_errors("--batch")`."""
    try:
        yield
    except Exception as error:
        told = isinstance(error, CollegiumError)
        if told or not (isinstance(error, MemoryError) or any(sign in str(error).lower() for sign in _OUT_OF_MEMORY)):
            raise
        on_card = isinstance(error, torch.OutOfMemoryError) and torch.cuda.is_available()
        place = torch.device("cuda" if on_card else "cpu")
        free = memory_of(place)[0] / 2**30
        raise ResourceError(
            f"memory is exhausted ({free:.1f} GiB free on {place}): lower {flag} and run again; what was finished "
            "before is kept."
        ) from error


def _gigaflops(dtype: torch.dtype, device: torch.device) -> float:
    """Return the best speed of a few products; the first one warms up."""
    rows, inputs, outputs = _SHAPE if device.type == "cpu" else _LARGE_SHAPE
    left = torch.ones(rows, inputs, dtype=dtype, device=device)
    right = torch.ones(outputs, inputs, dtype=dtype, device=device)
    best = float("inf")
    for _ in range(1 + _REPEATS):
        start = time.perf_counter()
        product = torch.nn.functional.linear(left, right)
        float(product[0, 0])  # waits for the device
        best = min(best, time.perf_counter() - start)
    return round(2 * rows * inputs * outputs / best / 1e9, 1)
