"""A tiny library without a base model: three experts of two layers each, and child processes that cost nothing."""

import os
import signal
import time

import torch

from collegium.core.cards import ExpertCard, Fingerprint
from collegium.experts import AdapterPayload, Expert
from collegium.models import HeadWeights, LoraWeights

BASE = Fingerprint("c" * 64, "t" * 64, "w" * 64)


def make_expert(name, seed=0, **fields):
    head = HeadWeights(torch.ones(1, 6)) if fields.get("task", "language") != "language" else None
    draw = torch.Generator().manual_seed(seed)
    adapter = {
        f"model.layers.{layer}.up": LoraWeights(
            torch.randn(2, 6, generator=draw), torch.randn(4, 2, generator=draw), 0.5
        )
        for layer in range(2)
    }
    return Expert(ExpertCard(name=name, kind="lora", base=BASE, **fields), AdapterPayload(adapter, head=head))


def in_child(action):
    """Start a child process that does this and nothing else; return its process id."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        action()
        code = 0
    except BaseException as error:  # noqa: BLE001 - the child must end here, whatever happened
        code = getattr(type(error), "child_exit", 3)
    finally:
        os._exit(code)


def wait_for(child, *, seconds=60):
    """Return how the child ended: its exit code, or minus the signal that ended it."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.002)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the child did not end")
