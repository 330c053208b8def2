"""Peak memory of a run, by watching the process while it goes on."""

import gc
import threading
from collections.abc import Callable

import psutil

_PAUSE_SECONDS = 0.001


def peak_bytes(run: Callable[[], object]) -> int:
    """Return the most memory that the process held during a run, less what it held before: at least 0.

    A thread reads the resident set every millisecond; what comes and goes between two readings is not seen. Large
    tensors are given back to the system when they are freed, so that one contestant's peak does not hide another's.

    >>> peak_bytes(lambda: None) < 50e6
    True
    """
    gc.collect()
    process, over = psutil.Process(), threading.Event()
    before = most = process.memory_info().rss

    def watch() -> None:
        nonlocal most
        while not over.wait(_PAUSE_SECONDS):
            most = max(most, process.memory_info().rss)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        run()
    finally:
        most = max(most, process.memory_info().rss)
        over.set()
        watcher.join()
    return most - before
