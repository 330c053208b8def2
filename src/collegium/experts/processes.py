"""Experts made in several processes that share the base's weights.

Every worker has a pipe of its own, so that one that is killed takes down nothing but the expert it was at, whose
checkpoints stay. Workers do not hear Ctrl-C; their parent does, and asks each to leave a checkpoint. A worker whose
parent is gone does so by itself.
"""

import gc
import os
import pickle
import shutil
import signal
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from collegium.core.errors import CollegiumError, ResourceError
from collegium.core.files import disk_errors, staged_folder, staging_folder, sweep
from collegium.experts.folder import load_expert, save_expert
from collegium.experts.recipe import memory_flags
from collegium.experts.shared_base import SharedBase, share_base
from collegium.experts.workers import Outcome, Progress, Report, Task, perform, told
from collegium.models import Base, memory_errors

_PATIENCE_SECONDS = 60.0
"""How long a worker may take to leave a checkpoint before it is killed."""


@dataclass(frozen=True)
class Done:
    """What a worker says when an expert lies in its task's folder, or when it could not be made."""

    name: str
    curve: Mapping[str, Any] | None = None
    error: Exception | None = None


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    pipe: Connection
    task: Task


@dataclass(frozen=True)
class Processes:
    """Makes experts in so many processes at once; each maps the base's weights from one file."""

    workers: int

    def run(self, base: Base, tasks: Sequence[Task], *, report: Report) -> Iterator[Outcome]:
        """Yield outcomes as they come; closing the iterator ends the workers, each leaving a checkpoint."""
        if not tasks:
            return
        work = tasks[0].folder.parent
        with disk_errors(work):
            work.mkdir(parents=True, exist_ok=True)
        sweep(work)
        with staging_folder(work) as aside:
            shared, waiting = share_base(base, aside), deque(tasks)
            live: dict[Connection, _Worker] = {}
            try:
                while waiting or live:
                    while waiting and len(live) < self.workers:
                        worker = _start(shared, waiting.popleft())
                        live[worker.pipe] = worker
                    ready = wait(list(live))
                    for worker in [worker for pipe, worker in live.items() if pipe in ready]:
                        outcome = _heard(live, worker, waiting, report)
                        if outcome is not None:
                            yield outcome
            finally:
                _end(list(live.values()))


def _start(shared: SharedBase, task: Task) -> _Worker:
    ours, theirs = socket.socketpair()
    threads = task.config.threads or 1
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(part for part in sys.path if part),
        "OMP_NUM_THREADS": str(threads),
    }
    command = f"from collegium.experts.processes import serve; serve({theirs.fileno()})"
    process = subprocess.Popen(
        [sys.executable, "-c", command],
        pass_fds=(theirs.fileno(),),
        env=environment,
        start_new_session=True,
        stdin=subprocess.DEVNULL,
    )
    theirs.close()
    pipe = Connection(ours.detach())
    worker = _Worker(process, pipe, task)
    _send(worker, shared)
    _send(worker, task)
    return worker


def _send(worker: _Worker, message: object) -> None:
    try:
        # by value: what `send` would share of a parent's tensors needs this process's key
        worker.pipe.send_bytes(pickle.dumps(message))
    except OSError:
        # it died; reading from its pipe says so in a moment
        worker.process.poll()


def _heard(live: dict[Connection, _Worker], worker: _Worker, waiting: deque[Task], report: Report) -> Outcome | None:
    """Take one message from a worker, give it the next task or let it go, and return an outcome if there is one."""
    try:
        message = worker.pipe.recv()
    except (EOFError, OSError):
        del live[worker.pipe]
        return Outcome(worker.task.name, error=_lost(worker))
    if isinstance(message, Progress):
        report(message)
        return None
    outcome = _collected(message, worker.task)
    if waiting:
        worker.task = waiting.popleft()
        _send(worker, worker.task)
    else:
        del live[worker.pipe]
        worker.pipe.close()
        worker.process.wait()
    return outcome


def _collected(done: Done, task: Task) -> Outcome:
    if done.error is not None:
        return Outcome(task.name, error=done.error)
    try:
        return Outcome(task.name, load_expert(task.made), done.curve)
    except CollegiumError as error:
        return Outcome(task.name, error=error)


def _lost(worker: _Worker) -> ResourceError:
    worker.pipe.close()
    code = worker.process.wait()
    how = f"was ended by signal {-code} ({signal.Signals(-code).name})" if code < 0 else f"ended with code {code}"
    task = worker.task
    begun = any(task.checkpoints.glob("step-*"))
    return ResourceError(
        f"the process that trained {task.name!r} {how}. Run the same command again"
        + (f" to go on from the checkpoints in {task.checkpoints}" if begun else "")
        + f"; if memory is short, with --workers 1 --threads {task.config.threads or 1}, which changes no weight."
    )


def _end(workers: Sequence[_Worker]) -> None:
    for worker in workers:
        worker.process.terminate()
    for worker in workers:
        worker.pipe.close()
        try:
            worker.process.wait(_PATIENCE_SECONDS)
        except subprocess.TimeoutExpired:
            worker.process.kill()
            worker.process.wait()


def serve(descriptor: int) -> None:
    """Be a worker: open the base, make experts until there are no more tasks; for `Processes` alone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _interrupt)
    pipe = Connection(descriptor)
    base = None
    try:
        shared, task = pipe.recv(), pipe.recv()
        torch.set_num_threads(task.config.threads or 1)
        while True:
            try:
                with memory_errors(memory_flags(task.config, "whole" if task.branch else task.config.kind)):
                    base = base or shared.open()
                    done = Done(task.name, _made(base, task, pipe))
            except Exception as error:  # noqa: BLE001 - handed to the parent
                done = Done(task.name, error=told(error))
            pipe.send(done)
            task = pipe.recv()
    except (KeyboardInterrupt, EOFError, OSError):
        # asked to end, or the parent is gone; a last garbage collection would look at every object of torch
        gc.freeze()
        sys.exit(128 + signal.SIGTERM)


def _interrupt(number: int, frame: object) -> None:
    del number, frame
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


def _made(base: Base, task: Task, pipe: Connection) -> Mapping[str, Any]:
    """Put the expert of a task into its folder and return its learning curve."""

    def report(progress: Progress) -> None:
        try:
            pipe.send(progress)
        except OSError as error:
            raise KeyboardInterrupt from error

    trained = perform(base, task, report=report)
    shutil.rmtree(task.made, ignore_errors=True)
    with staged_folder(task.made) as aside:
        save_expert(trained.expert, aside)
    return trained.curve
