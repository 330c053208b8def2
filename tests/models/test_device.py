"""Devices, dtypes and memory are chosen by measuring, and refused by name."""

import errno
import json
import os
import re

import pytest
import torch
from safetensors import SafetensorError

from collegium.core.errors import ConfigError, ResourceError
from collegium.models import choose_device, choose_dtype, inspect_machine, memory_errors
from collegium.models import device as devices

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("COLLEGIUM_CACHE", str(tmp_path))
    return tmp_path


def test_auto_finds_a_device():
    assert choose_device("cpu") == CPU
    assert choose_device("auto").type in {"cpu", "cuda", "mps"}


def test_absent_devices_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="has no cuda device"):
        choose_device("cuda")
    with pytest.raises(ConfigError, match="Did you mean 'cuda'"):
        choose_device("cud")


@pytest.mark.parametrize(("ratio", "want"), [(3.0, torch.bfloat16), (1.1, torch.float32), (0.5, torch.float32)])
def test_auto_takes_bfloat16_only_where_it_is_clearly_faster(monkeypatch, ratio, want):
    monkeypatch.setattr(devices, "_gigaflops", lambda dtype, device: ratio if dtype == torch.bfloat16 else 1.0)
    assert choose_dtype("auto", CPU) == want
    assert choose_dtype("float32", CPU) == torch.float32
    assert choose_dtype("bfloat16", CPU) == torch.bfloat16


def test_speeds_are_measured_once(monkeypatch, cache):
    measured = []
    monkeypatch.setattr(devices, "_gigaflops", lambda dtype, device: measured.append(dtype) or 2.0)
    first = devices.dtype_speeds(CPU)
    assert devices.dtype_speeds(CPU) == first
    assert len(measured) == 2
    devices.dtype_speeds(CPU, again=True)
    assert len(measured) == 4
    (cache / "speed.json").write_text("{")
    assert devices.dtype_speeds(CPU) == first
    assert len(json.loads((cache / "speed.json").read_text())) == 1


def test_the_machine_is_described():
    machine = inspect_machine("cpu")
    assert machine.device == "cpu"
    assert machine.dtype in {"float32", "bfloat16"}
    assert set(machine.gigaflops) == {"float32", "bfloat16"}
    assert all(speed > 0 for speed in machine.gigaflops.values())
    assert 0 < machine.free_memory_bytes <= machine.memory_bytes
    assert (
        machine.versions["torch"] == torch.__version__.partition("+")[0]
        or machine.versions["torch"] == torch.__version__
    )


EXHAUSTED = [
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:124] err == 0. DefaultCPUAllocator: can't allocate memory"),
    RuntimeError("std::bad_alloc"),
    RuntimeError("bad allocation"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    RuntimeError("MPS backend out of memory (MPS allocated: 1 GB)"),
    RuntimeError("unable to mmap 1000 bytes from file </x>: Cannot allocate memory (12)"),
    OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)),
    SafetensorError("Error while deserializing header: Cannot allocate memory (os error 12)"),
]


@pytest.mark.parametrize("error", EXHAUSTED)
def test_exhausted_memory_names_the_flag(error):
    with pytest.raises(ResourceError, match="lower --batch"), memory_errors("--batch"):
        raise error


def test_a_real_allocation_that_fails_names_the_flag():
    with pytest.raises(ResourceError, match="lower --window"), memory_errors("--window"):
        torch.empty(2**60)


@pytest.mark.parametrize("error", [RuntimeError("something else"), OSError(errno.EACCES, "Permission denied")])
def test_other_errors_pass(error):
    with pytest.raises(type(error), match=re.escape(str(error))), memory_errors("--batch"):
        raise error


def test_what_was_told_already_is_told_as_it_was():
    with pytest.raises(ResourceError, match=r"^out of memory: lower --rank$"), memory_errors("--batch"):
        raise ResourceError("out of memory: lower --rank")
