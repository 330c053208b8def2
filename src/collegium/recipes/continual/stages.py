"""Streams step by step: each task that a method has learnt is kept, and a run that ended goes on behind the last."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from collegium.core.cards import content_hash
from collegium.core.errors import TrainingError
from collegium.models import Adapter, Base
from collegium.tasks.continual import (
    Composition,
    ContinualConfig,
    Knowledge,
    Lesson,
    Method,
    Pool,
    Scene,
    Stage,
    accuracies,
    composed,
    learn_next,
    outputs,
)
from collegium.tasks.continual.alone import alone
from collegium.tasks.continual.growing import prefix_settings
from collegium.tasks.continual.keeping import keep, recall, said_of
from collegium.tasks.continual.metrics import Matrix
from collegium.train import Logger, NullLogger

TUNED_ON = 2
"""Rates are chosen by the first so many tasks of the first order."""

Routing = dict[str, dict[str, float]]
"""Task -> adapter -> mean weight."""


@dataclass(frozen=True, eq=False)
class Course:
    """A stream on a base, whatever the learning rate; what is learnt with equal rates is shared."""

    base: Base
    config: ContinualConfig
    pool: Pool
    lessons: tuple[Lesson, ...]
    folder: Path
    begin: Callable[[str, int], Logger] = lambda label, steps: NullLogger()
    scenes: dict[float, Scene] = field(default_factory=dict)
    rates: dict[str, tuple[float, dict[str, float | None]]] = field(default_factory=dict)

    def scene(self, rate: float) -> Scene:
        """Return the scene of a learning rate."""
        if rate not in self.scenes:
            self.scenes[rate] = Scene(
                self.base, self.config, self.pool, self.lessons, rate, self.folder / "steps", self.begin
            )
        return self.scenes[rate]


@dataclass(frozen=True, eq=False)
class StreamResult:
    """One method in one order. routing: at the end, None where nobody is weighed. last: what it had learnt by then."""

    order: tuple[int, ...]
    matrix: Matrix
    parameters: int
    seconds: float
    routing: Routing | None
    last: Stage


def chosen_rate(
    course: Course, name: str, method: Method, order: tuple[int, ...]
) -> tuple[float, dict[str, float | None]]:
    """Return the rate with the fewest nats on the dev rows of the first tasks, and the nats of each that was tried.

    Methods whose adapters are trained alone share one choice, by these adapters. A rate at which a fit diverges has no
    nats (None) and is not chosen; raises TrainingError where all of them do.
    """
    key = "alone" if method.isolated else name
    if key not in course.rates:
        rates, first = course.config.rates, order[:TUNED_ON]
        tried = {rate: _tried(course, key, method, first, rate) for rate in rates} if len(rates) > 1 else {}
        fits = {rate: nats for rate, nats in tried.items() if nats is not None}
        if tried and not fits:
            told = ", ".join(f"{rate:g}" for rate in rates)
            raise TrainingError(f"{name} diverges at every rate of {told}; give lower ones (--rates).")
        best = min(fits, key=lambda rate: fits[rate]) if fits else next(iter(rates))
        course.rates[key] = best, {f"{rate:g}": nats for rate, nats in tried.items()}
    return course.rates[key]


def _tried(course: Course, key: str, method: Method, tasks: tuple[int, ...], rate: float) -> float | None:
    """Return a rate's nats, None where a fit diverges."""
    try:
        return _tuning_nats(course, key, method, tasks, rate)
    except TrainingError:
        return None


def _tuning_nats(course: Course, key: str, method: Method, tasks: tuple[int, ...], rate: float) -> float:
    scene = course.scene(rate)
    if key == "alone":
        found = []
        for task in tasks:
            known = alone(scene, task)
            found.append(_dev_nats(scene, (task,), known, Composition(tuple(known.adapters))))
        return round(sum(found) / len(found), 6)
    last, _ = _stages(course, key, method, tasks, scene)
    return _dev_nats(scene, tasks, last.knowledge, last.composition)


def _dev_nats(scene: Scene, tasks: tuple[int, ...], known: Knowledge, composition: Composition) -> float:
    rows = torch.cat([scene.lessons[task].dev for task in tasks])
    found = outputs(scene, tasks, known, composition=composition, rows=rows)
    nats = scene.nats(found, rows, scene.columns(tasks), alone=False)
    return round(float(nats.double().mean()), 6)


def run_stream(course: Course, name: str, method: Method, *, order: tuple[int, ...], rate: float) -> StreamResult:
    """Return what a method came to in one order of tasks."""
    scene = course.scene(rate)
    last, said = _stages(course, name, method, order, scene)
    return StreamResult(
        order,
        tuple(tuple(each["accuracy"]) for each in said),
        last.knowledge.parameters,
        round(sum(each["seconds"] for each in said), 3),
        routing_of(scene, last),
        last,
    )


def _stages(
    course: Course, name: str, method: Method, order: tuple[int, ...], scene: Scene
) -> tuple[Stage, list[dict[str, Any]]]:
    """Return the last stage of a method in an order, and what is said of each; those that are kept are not repeated."""
    folder = course.folder / "steps" / f"{name}-{scene.rate:g}"
    names = ["-".join(course.lessons[task].name for task in order[: count + 1]) for count in range(len(order))]
    labels = [f"{number + 1}-{content_hash([scene.identity, each])[:16]}" for number, each in enumerate(names)]
    done = 0
    while done < len(order) and said_of(folder, labels[done]):
        done += 1
    said = [said_of(folder, label) or {} for label in labels[:done]]
    stage = None
    if done:
        known = recall(folder, labels[done - 1], like=_like(scene, name))
        seen = order[:done]
        stage = Stage(seen, known, composed(scene, method, seen, known))
    for count in range(done, len(order)):
        started = time.perf_counter()
        stage = learn_next(scene, method, order[count], stage)
        seconds = round(time.perf_counter() - started, 3)  # of learning, judging apart
        said.append({"accuracy": list(accuracies(scene, stage)), "seconds": seconds, "order": names[count]})
        keep(folder, labels[count], stage.knowledge, said[-1])
    assert stage is not None
    return stage, said


def _like(scene: Scene, name: str) -> Adapter:
    """Return an adapter of the shape of a method's."""
    return scene.fresh(prefix_settings(scene) if name == "progprompt" else None)


@torch.no_grad()
def routing_of(scene: Scene, stage: Stage) -> Routing | None:
    """Return the mean weight of each adapter on each task's test rows, over blocks and rows; None without weights."""
    if stage.composition.gates is not None:
        return None
    found: Routing = {}
    for task in stage.seen:
        lesson = scene.lessons[task]
        weights = stage.composition.weigh(lesson.test)
        if weights is None:
            return None
        used = weights
        if weights.ndim == 4:
            blocks = sorted({scene.base.sites[path].block for path in next(iter(stage.knowledge.adapters.values()))})
            used = weights[torch.tensor(blocks)]
        mean = used.reshape(-1, used.shape[-1]).mean(0).tolist()
        found[lesson.name] = {name: round(each, 4) for name, each in zip(stage.composition.adapters, mean, strict=True)}
    return found
