"""The toy experiment on streams of tasks: every method learns one stream in one order, each seed another."""

import functools
import random
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from collegium.claims.continual_measure import measured, rows
from collegium.claims.continual_world import RATE_SEED, StreamSettings, world
from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.recipes.continual.stages import Course, chosen_rate, routing_of
from collegium.tasks.continual import (
    METHODS,
    Knowledge,
    Method,
    Scene,
    Stage,
    accuracies,
    accuracy_on,
    composed,
    learn_next,
)
from collegium.tasks.continual.attending import attention, kept_apart
from collegium.tasks.continual.composing import Composition
from collegium.tasks.continual.routing import fit_router

MAIN = (
    *("oracle", "l2r", "l2r-merge", "l2r-softmax", "l2r-active", "centroid", "uniform", "sequential", "olora"),
    *("sapt", "sapt-real", "sapt-none"),
)
ALONE = "oracle"
"""Whose rate is that of all methods whose adapters are trained alone."""
TUNED = (ALONE, *(name for name in MAIN if not METHODS[name].isolated))
LEARNT = 4
"""So many tasks are learnt; one more is held out."""


class StreamWork:
    """Computes the pieces; keeps the last seed's world."""

    def __init__(self, settings: StreamSettings) -> None:
        """Keep what decides the numbers."""
        self.settings = settings
        self.once = functools.lru_cache(maxsize=4)(_nothing_yet)
        self.world = functools.lru_cache(maxsize=1)(lambda families, seed: world(families, settings, seed))

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one piece's result."""
        stage, _, name = piece.partition(".")
        stages = {
            "rate": self.rate,
            "stream": self.stream,
            "memory": self.memory,
            "overlap": self.overlap,
            "apart": self.apart,
        }
        return stages[stage](name, place)

    def scene(self, families: tuple[int, ...], seed: int, rate: float, **changed: Any) -> Scene:  # noqa: ANN401
        """Return the scene of a seed's stream; changed: settings that are others than the experiment's."""
        base, pool, lessons = self.world(families, seed)
        config = replace(self.settings.config, seed=seed, **changed)
        return Scene(base, config, pool, lessons, rate, once=self.once(families, seed, rate))

    def rate(self, name: str, place: Place) -> PieceResult:
        """Return the rate that a method chooses on the one seed for it, and the dev nats of each tried."""
        base, pool, lessons = self.world(self.settings.families, RATE_SEED)
        course = Course(base, self.settings.config, pool, lessons, place.folder)
        rate, tried = chosen_rate(course, name, METHODS[name], (0, 2))
        return {"rate": rate, "tried": tried}

    def chosen(self, name: str, place: Place) -> float:
        """Return a method's rate."""
        return float(place.done[f"rate.{ALONE if METHODS[name].isolated else name}"]["rate"])

    def stream(self, name: str, place: Place) -> PieceResult:
        """Return what a method comes to in the seed's order, and whatever else its claims ask of it."""
        scene = self.scene(self.settings.families, place.number, self.chosen(name, place))
        order = random.Random(f"order {place.number}").sample(range(LEARNT), LEARNT)
        stage, matrix = through(scene, METHODS[name], order)
        found: dict[str, Any] = {
            "matrix": matrix,
            "routing": routing_of(scene, stage),
            "held_out": held_out(scene, stage),
            "order": [scene.lessons[task].name for task in order],
        }
        if name == ALONE:
            found["single"] = [held_out(scene, stage, only=task) for task in range(LEARNT)]
        if name.startswith("sapt"):
            found["drift"] = drift(scene, stage)
        if name == "sapt-real":
            found["apart"] = [reselected(scene, stage)]
        return found

    def memory(self, name: str, place: Place) -> PieceResult:
        """Return what L2R comes to with so many rows a class remembered."""
        rate = self.chosen("l2r", place)
        scene = self.scene(self.settings.families, place.number, rate, memory=int(name))
        stage, _ = through(scene, METHODS["l2r"], range(LEARNT), last=True)
        return {"accuracy": mean(accuracies(scene, stage))}

    def overlap(self, name: str, place: Place) -> PieceResult:
        """Return the accuracy on a stream whose tasks share what tells their labels."""
        return self._other(self.settings.nested, name, place)

    def apart(self, name: str, place: Place) -> PieceResult:
        """Return the accuracy on a stream whose tasks share nothing."""
        return self._other(self.settings.apart, name, place)

    def _other(self, families: tuple[int, ...], name: str, place: Place) -> PieceResult:
        scene = self.scene(families, place.number, self.chosen(name, place))
        stage, _ = through(scene, METHODS[name], range(len(families)), last=True)
        return {"accuracy": mean(accuracies(scene, stage))}


def _nothing_yet(families: tuple[int, ...], seed: int, rate: float) -> dict[str, Knowledge]:
    """Return where adapters trained alone are kept, for all pieces of a seed with one rate."""
    del families, seed, rate
    return {}


def through(
    scene: Scene, method: Method, order: Any, *, last: bool = False  # noqa: ANN401 - numbers of tasks
) -> tuple[Stage, list[list[float]]]:  # fmt: skip
    """Return a method's stage after all tasks and its accuracies after each; `last`: routers are learnt at the end."""
    order = tuple(order)
    if last:
        known = Knowledge()
        for count in range(1, len(order)):
            known = METHODS[ALONE].learn(scene, order[:count], known)
        known = method.learn(scene, order, known)
        return Stage(order, known, composed(scene, method, order, known)), []
    stage, matrix = None, []
    for task in order:
        stage = learn_next(scene, method, task, stage)
        matrix.append([round(each, 6) for each in accuracies(scene, stage)])
    assert stage is not None
    return stage, matrix


def held_out(scene: Scene, stage: Stage, *, only: int | None = None) -> float:
    """Return the accuracy on the task that nobody learnt; only: by one task's adapter and head alone."""
    rows = scene.lessons[LEARNT].test
    if only is None:
        return accuracy_on(scene, stage.seen, stage.knowledge, stage.composition, rows=rows)
    alone = Composition((scene.lessons[only].name,))
    return accuracy_on(scene, (only,), stage.knowledge, alone, rows=rows)


@torch.no_grad()
def drift(scene: Scene, stage: Stage) -> float:
    """Return how far attention has moved on earlier tasks' test texts: mean KL(as it was when learnt || now)."""
    found = []
    for place, task in enumerate(stage.seen[:-1]):
        old = stage.knowledge.extra[f"alpha {scene.lessons[task].name}"]
        rows = scene.lessons[task].test
        now = attention(
            scene.pool.embedded[rows],
            stage.knowledge.extra["query down"],
            stage.knowledge.extra["query up"],
            torch.stack([stage.knowledge.extra[f"key {scene.lessons[each].name}"] for each in stage.seen]),
        )
        kept: Tensor = torch.cat([old, old.new_zeros(len(stage.seen) - place - 1)])
        found.append(float(kept_apart(kept.expand(len(rows), -1), now)))
    return mean(found)


def reselected(scene: Scene, stage: Stage) -> float:
    """Return the accuracy of SAPT's own adapters, chosen by a router that is learnt afterwards on the memory."""
    known = fit_router(scene, stage.seen, stage.knowledge, method="l2r over sapt")
    again = Stage(stage.seen, known, composed(scene, METHODS["l2r"], stage.seen, known))
    return mean(accuracies(scene, again))


def mean(values: Any) -> float:  # noqa: ANN401 - numbers
    """Return the mean of some numbers."""
    values = list(values)
    return round(float(sum(values) / len(values)), 6)


def stream_experiment(settings: StreamSettings) -> Experiment:
    """Return the experiment with these settings."""
    work = StreamWork(settings)
    gates = ("l2r", "l2r-softmax")
    return Experiment(
        pieces=(
            *(f"stream.{name}" for name in MAIN),
            *(f"memory.{count}" for count in settings.memories),
            *(f"{stream}.{name}" for stream in ("overlap", "apart") for name in gates),
        ),
        once=tuple(f"rate.{name}" for name in TUNED),
        run=work.run,
        measure=functools.partial(measured, settings=settings),
        rows=rows,
        settings=settings.plain(),
    )


TOY_STREAM = stream_experiment(StreamSettings())
