"""A contestant in a process of its own: it works when it is asked, and its memory is watched from outside."""

import importlib
import multiprocessing
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import psutil
from settings import Settings

PAUSE_SECONDS = 0.01


@dataclass(frozen=True)
class Answer:
    """What was answered, in how many seconds, and the most memory the process held meanwhile."""

    value: Any
    seconds: float
    peak_bytes: int


class Side:
    """A module's `College`, made and asked in a process of its own."""

    def __init__(self, module: str, base: str, texts: Path, folder: Path, *, settings: Settings) -> None:
        """Start the process; `opened` says how long imports and opening took."""
        context = multiprocessing.get_context("spawn")
        self.pipe, other = context.Pipe()
        self.process = context.Process(target=serve, args=(other, module, base, texts, folder, settings), daemon=True)
        started = time.perf_counter()
        self.process.start()
        other.close()
        answer = self._answer()
        self.opened = Answer(None, time.perf_counter() - started, answer.peak_bytes)

    def ask(self, what: str | Callable[..., object], *arguments: object) -> Answer:
        """Return the answer of a method of the college, or of a function that is given the college first."""
        self.pipe.send((what, arguments))
        return self._answer()

    def close(self) -> None:
        """End the process."""
        self.pipe.send(None)
        self.process.join()

    def _answer(self) -> Answer:
        watched, peak = psutil.Process(self.process.pid), 0
        while not self.pipe.poll(PAUSE_SECONDS):
            if not self.process.is_alive() and not self.pipe.poll():
                raise SystemExit(f"a side ended by itself, exit code {self.process.exitcode}.")
            peak = max(peak, watched.memory_info().rss)
        found, value, seconds = self.pipe.recv()
        if not found:
            raise SystemExit(f"a side failed:\n{value}")
        return Answer(value, seconds, max(peak, watched.memory_info().rss))


def serve(pipe: Connection, module: str, base: str, texts: Path, folder: Path, settings: Settings) -> None:
    """Answer until nothing more is asked."""
    import torch

    try:
        torch.set_num_threads(settings.threads)
        college = importlib.import_module(module).College(base, texts, folder, settings)
        pipe.send((True, None, 0.0))
        while (asked := pipe.recv()) is not None:
            what, arguments = asked
            started = time.perf_counter()
            value = getattr(college, what)(*arguments) if isinstance(what, str) else what(college, *arguments)
            pipe.send((True, value, time.perf_counter() - started))
    except EOFError:  # whoever asked is gone
        return
    except Exception:  # noqa: BLE001 - told to whoever asked
        pipe.send((False, traceback.format_exc(), 0.0))
