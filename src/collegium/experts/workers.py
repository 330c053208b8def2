"""Many experts: a list of tasks, whoever carries them out, and what becomes of each.

An executor takes tasks and gives back outcomes; `InOrder` makes one expert after another in this process,
`collegium.experts.processes.Processes` several at once. One expert that fails does not lose the others.
"""

import contextlib
import dataclasses
import functools
import shutil
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from collegium.core.errors import CollegiumError, ConfigError
from collegium.data import Document, Domain
from collegium.experts.fit import Origin, Trained, fit_documents
from collegium.experts.payloads import Expert
from collegium.experts.recipe import FitConfig, using_threads
from collegium.experts.whole_fit import fit_whole_documents
from collegium.models import Base

_CHECKPOINTS, _MADE = "checkpoints", "expert"


@dataclass(frozen=True, eq=False)
class Branch:
    """Where a whole model begins: at its parents, each with a weight; without any at the base."""

    parents: tuple[Expert, ...] = ()
    weights: Mapping[str, float] | None = None


@dataclass(frozen=True, eq=False)
class Task:
    """One expert to be made.

    folder: where it may leave checkpoints.
    branch: where a whole model begins; None = a small expert is made.
    begin:  the expert whose copy a small one begins with; None = fresh weights.
    """

    name: str
    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    config: FitConfig
    folder: Path
    origin: Origin = field(default_factory=Origin)
    branch: Branch | None = None
    begin: Expert | None = None

    @property
    def checkpoints(self) -> Path:
        """Where its fit leaves checkpoints."""
        return self.folder / _CHECKPOINTS

    @property
    def made(self) -> Path:
        """Where a worker puts the expert for its parent to take."""
        return self.folder / _MADE


@dataclass(frozen=True)
class Progress:
    """One more step of one expert: its number, how many there will be at most, and what was measured."""

    name: str
    step: int
    steps: int
    values: Mapping[str, float]


@dataclass(frozen=True, eq=False)
class Outcome:
    """What became of a task: an expert with its learning curve, or an error."""

    name: str
    expert: Expert | None = None
    curve: Mapping[str, Any] | None = None
    error: Exception | None = None


Report = Callable[[Progress], None]
Keep = Callable[[Outcome], Expert]
"""Puts a new expert where it stays, and returns it as it lies there."""


@runtime_checkable
class Executor(Protocol):
    """Carries out tasks, in any order and in any place."""

    def run(self, base: Base, tasks: Sequence[Task], *, report: Report) -> Iterator[Outcome]:
        """Yield an outcome for every task as soon as there is one; being closed, leave checkpoints of the rest."""
        ...


class ReportingLogger:
    """Turns what the fit loop logs into progress of a named expert."""

    def __init__(self, name: str, steps: int, report: Report) -> None:
        """Keep whom to tell."""
        self._name, self._steps, self._report = name, steps, report

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Tell."""
        self._report(Progress(self._name, step, self._steps, dict(values)))

    def close(self) -> None:
        """Hold nothing back."""


def perform(base: Base, task: Task, *, report: Report) -> Trained:
    """Return the expert of a task, having gone on from its checkpoints."""
    fit = functools.partial(fit_documents, begin=task.begin)
    if task.branch is not None:
        fit = functools.partial(fit_whole_documents, parents=task.branch.parents, weights=task.branch.weights)
    return fit(
        base,
        task.train,
        dev=task.dev,
        config=task.config,
        name=task.name,
        origin=task.origin,
        checkpoint=task.checkpoints,
        logger=ReportingLogger(task.name, task.config.steps, report),
    )


def told(error: Exception) -> Exception:
    """Return an error as it is told to the user; one that is nobody's mistake but ours keeps its trace."""
    if isinstance(error, CollegiumError):
        return error
    return RuntimeError(f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}")


@dataclass(frozen=True)
class InOrder:
    """Makes one expert after another in this process."""

    def run(self, base: Base, tasks: Sequence[Task], *, report: Report) -> Iterator[Outcome]:
        """Yield the outcomes in order."""
        for task in tasks:
            try:
                done = perform(base, task, report=report)
            except Exception as error:  # noqa: BLE001 - handed to the caller with the outcome
                yield Outcome(task.name, error=told(error))
            else:
                yield Outcome(task.name, done.expert, done.curve)


def fit_experts(
    base: Base,
    domains: Sequence[Domain],
    *,
    config: FitConfig = FitConfig(),  # noqa: B008 - frozen
    work: Path,
    workers: int = 1,
    branch: Callable[[Domain], Branch] | None = None,
    begin: Callable[[Domain], Expert | None] | None = None,
    keep: Keep | None = None,
    report: Report | None = None,
) -> list[Outcome]:
    """Return the outcomes for all domains, in their order; each expert is named after its domain.

    work:    a folder for checkpoints; the same call goes on from there after any interruption.
    workers: processes at once; the threads torch uses here are divided among them unless the recipe names a number.
    branch:  where a domain's whole model begins; None = small experts are made.
    begin:   the expert whose copy a domain's small one begins with; None = fresh weights.
    keep:    called here with each expert as soon as it is made: puts it into a library and returns it from there, for
             the outcome; its checkpoints are deleted then. An error of `keep` is that expert's outcome. Without it
             everything stays in `work`.

    An expert's weights depend on its domain, recipe and threads alone, not on workers or on the other domains.

    >>> import tempfile
    >>> from collegium.testing.pico import pico_base
    >>> domain = Domain("law", tuple(Document(text=f"Article {n}. " * 20) for n in range(9)))
    >>> quick = FitConfig(rank=2, steps=2, window=32)
    >>> with tempfile.TemporaryDirectory() as work:
    ...     [outcome] = fit_experts(pico_base(), [domain], config=quick, work=Path(work))
    >>> outcome.expert.name
    'law'
    """
    config = dataclasses.replace(config, threads=config.threads or threads_each(workers))
    tasks, failed = [], []
    for domain in domains:
        try:
            with using_threads(config.threads or 1):
                start = None if branch is None else branch(domain)
                copied = None if begin is None else begin(domain)
            tasks.append(domain_task(domain, config, work, branch=start, begin=copied))
        except Exception as error:  # noqa: BLE001 - handed to the caller with the outcome
            failed.append(Outcome(domain.name, error=told(error)))
    made = run_tasks(base, tasks, workers=workers, keep=keep, report=report)
    by_name = {outcome.name: outcome for outcome in (*failed, *made)}
    return [by_name[domain.name] for domain in domains]


def run_tasks(
    base: Base,
    tasks: Sequence[Task],
    *,
    workers: int = 1,
    keep: Keep | None = None,
    report: Report | None = None,
    executor: Executor | None = None,
) -> list[Outcome]:
    """Return the outcomes of any tasks, in their order; `executor` in place of this machine's own."""
    names = [task.name for task in tasks]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ConfigError(f"each expert has a name of its own; {', '.join(twice)} comes twice.")
    chosen = executor or _executor(min(workers, len(tasks)))
    outcomes = {}
    # closing: an error or Ctrl-C here must end the workers before it goes on
    with contextlib.closing(chosen.run(base, tasks, report=report or _silent)) as coming:  # pyright: ignore[reportArgumentType]
        for outcome in coming:
            outcomes[outcome.name] = _kept(outcome, keep, next(task for task in tasks if task.name == outcome.name))
    return [outcomes[name] for name in names]


def domain_task(
    domain: Domain, config: FitConfig, work: Path, *, branch: Branch | None = None, begin: Expert | None = None
) -> Task:
    """Return the task of making a domain's expert; raises DataError under three documents."""
    split, folder = domain.split(), work / domain.name
    return Task(domain.name, split.train, split.dev, config, folder, Origin.of(domain), branch, begin)


def clear_away(folder: Path) -> None:
    """Delete what tasks leave in their folder, and the folder if nothing else is in it."""
    for name in (_CHECKPOINTS, _MADE):
        shutil.rmtree(folder / name, ignore_errors=True)
    with contextlib.suppress(OSError):
        folder.rmdir()


def threads_each(workers: int) -> int:
    """Return the threads of one of so many workers, at least one."""
    if workers < 1:
        raise ConfigError(f"workers is at least 1, got {workers}.")
    return max(1, torch.get_num_threads() // workers)


def _executor(workers: int) -> Executor:
    if workers <= 1:
        return InOrder()
    from collegium.experts.processes import Processes

    return Processes(workers)


def _kept(outcome: Outcome, keep: Keep | None, task: Task) -> Outcome:
    if keep is None or outcome.expert is None:
        return outcome
    try:
        expert = keep(outcome)
    except Exception as error:  # noqa: BLE001 - handed to the caller with the outcome
        return dataclasses.replace(outcome, error=told(error))
    clear_away(task.folder)
    return dataclasses.replace(outcome, expert=expert)


def _silent(progress: Progress) -> None:
    del progress
