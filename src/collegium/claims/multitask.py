"""The toy experiment on tasks learnt together: A1 to A6 on three domains a seed, G1 to G3 on one pool of tasks."""

import dataclasses
import functools
import time
from collections.abc import Callable, Mapping
from statistics import fmean
from typing import Any

from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.claims.multitask_measure import measured, rows
from collegium.claims.multitask_world import RATE_SEED, TaskSettings, World, copied, encoded, world
from collegium.core.errors import TrainingError
from collegium.core.randomness import generator
from collegium.models import BASE_ROWS
from collegium.rewards.more import attached_as
from collegium.tasks.multitask import (
    METHODS,
    Learnt,
    Lessons,
    Workshop,
    alpha_matrix,
    base_quality,
    drawn_routes,
    judged,
    learn_by_route,
    learn_dense,
    measure,
)
from collegium.tasks.multitask.parts import adapter_size

Learn = Callable[[Workshop], Learnt]

LEARN: Mapping[str, Learn] = {
    **{name: METHODS[name].learn for name in ("alter", "one-stage", "shared", "tamoe", "moe")},
    "dense": learn_dense,
}
WHOLE = "whole"
TUNED = (*LEARN, WHOLE)
DOMAIN = ("one-stage", "shared")
"""What a domain's mixture is compared with, beside the base, its own adapters alone, and whole models."""


class TaskWork:
    """Computes the pieces; keeps the last seed's world."""

    def __init__(self, settings: TaskSettings) -> None:
        """Keep what decides the numbers."""
        self.settings = settings
        self.world: Callable[[int], World] = functools.lru_cache(maxsize=1)(lambda seed: world(settings, seed))

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one piece's result."""
        stage, _, name = piece.partition(".")
        if stage == "rate":
            return chosen_rate(name, self.lessons_of_domain(0, RATE_SEED), self.settings)
        if stage == "domain":
            return self.domain(int(name), place)
        return self.pool(name, place, without=stage == "without")

    def lessons_of_domain(self, number: int, seed: int) -> Lessons:
        """Return a domain's tasks."""
        found = self.world(seed)
        return encoded(found.base, found.domains[number], self.settings.config, seed)

    def domain(self, number: int, place: Place) -> PieceResult:
        """Return what every method comes to on a domain's tasks, and what the gates of two stages say."""
        lessons = self.lessons_of_domain(number, place.number)
        shop = Workshop(tuned(lessons, chosen("alter", place)))
        seconds = stage_seconds(shop)
        learnt = LEARN["alter"](shop)
        with attached_as(lessons.base, learnt.adapters):
            alpha = alpha_matrix(lessons, learnt.plan)
        found: dict[str, Any] = {
            "alter": {
                **scored(shop, learnt),
                "alpha": [[round(each, 6) for each in row] for row in alpha.tolist()],
                "gate_parameters": learnt.parameters - sum(map(adapter_size, learnt.adapters.values())),
                "stage_seconds": seconds,
            },
            "separate": scored(shop, METHODS["separate"].learn(shop)),
            "base": {"accuracy": accuracies(base_quality(shop)), "parameters": 0, "seconds": 0.0},
            WHOLE: whole(lessons, chosen(WHOLE, place)),
        }
        for name in DOMAIN:
            shop = Workshop(tuned(lessons, chosen(name, place)))
            found[name] = scored(shop, LEARN[name](shop))
        return found

    def pool(self, name: str, place: Place, *, without: bool) -> PieceResult:
        """Return what a method comes to on the pool, with its last task or without it; TaMoE learns new ones too."""
        seen = self.world(place.number)
        tasks = seen.pool[:-1] if without else seen.pool
        rate = chosen(name, place)
        shop = Workshop(tuned(encoded(seen.base, tasks, self.settings.config, place.number), rate))
        learnt = LEARN[name](shop)
        found = scored(shop, learnt)
        return found | self.new_tasks(learnt, rate, place.number) if name == "tamoe" and not without else found

    def new_tasks(self, learnt: Learnt, rate: float, seed: int) -> dict[str, Any]:
        """Return the accuracies on new tasks, by the routes of related ones and by random ones."""
        seen, settings = self.world(seed), self.settings
        assert learnt.gates is not None
        shop = Workshop(tuned(encoded(seen.base, seen.new, settings.config, seed), rate))
        vectors = learnt.gates.vectors.detach()
        kin = learn_by_route(shop, learnt, vectors[list(settings.kin)], label="kin")
        draw, random = generator(seed, "random routes"), []
        for number in range(settings.draws):
            route = drawn_routes(len(seen.new), vectors, draw)
            random.append(accuracies(judged(shop, learn_by_route(shop, learnt, route, label=f"random {number}"))))
        return {"by_kin": accuracies(judged(shop, kin)), "by_random": random}


def tuned(lessons: Lessons, rate: float) -> Lessons:
    """Return lessons at a chosen rate."""
    return dataclasses.replace(lessons, config=dataclasses.replace(lessons.config, learning_rate=rate))


def chosen(name: str, place: Place) -> float:
    """Return a method's rate."""
    return float(place.done[f"rate.{name}"]["rate"])


def scored(shop: Workshop, learnt: Learnt) -> dict[str, Any]:
    """Return what a method came to."""
    return {
        "accuracy": accuracies(judged(shop, learnt)),
        "parameters": learnt.parameters,
        "seconds": round(learnt.seconds, 3),
    }


def stage_seconds(shop: Workshop) -> list[float]:
    """Return the seconds that the processor worked in the first stage and in the second, each done here."""
    found = []
    for stage in (shop.alone, shop.gates):
        start = time.process_time()
        stage()
        found.append(time.process_time() - start)
    return found


def accuracies(quality: Any) -> list[float]:  # noqa: ANN401 - a Quality, all of whose tasks have an accuracy
    """Return the accuracy of each task."""
    return [round(float(each), 6) for each in quality.accuracy.values()]


def whole(lessons: Lessons, rate: float) -> dict[str, Any]:
    """Return what a whole model comes to that is trained further on each task, as long as both stages of adapters."""
    found, size, seconds = [], 0, 0.0
    for number, name in enumerate(lessons.names):
        shop = whole_model(lessons, number, rate)
        found.append(round(float(measure(shop.lessons, lambda tasks, states: BASE_ROWS).accuracy[name] or 0.0), 6))
        size += sum(each.numel() for each in shop.lessons.base.model.parameters())
        seconds += shop.seconds(WHOLE)
    return {"accuracy": found, "parameters": size, "seconds": round(seconds, 3)}


def whole_model(lessons: Lessons, number: int, rate: float) -> Workshop:
    """Return the workshop in which a copy of the base was trained on one task, all of its weights."""
    assert not lessons.first, "states below adapters are the base's own"
    base, steps = copied(lessons.base), lessons.steps[number]
    shop = Workshop(dataclasses.replace(lessons, base=base))
    weights = dict(base.model.named_parameters())
    steps += lessons.config.inter_steps(steps)
    shop.fit(WHOLE, lambda tasks, states: BASE_ROWS, weights, steps=steps, rate=rate, task=number)
    return shop


def chosen_rate(name: str, lessons: Lessons, settings: TaskSettings) -> dict[str, Any]:
    """Return the rate of a method that leaves the fewest dev nats, and the nats of each that was tried.

    It is that of adapters, or of a whole model; gates have the settings' rate in every method. A mixture of two stages
    chooses by its adapters alone.
    """
    grid = settings.whole_rates if name == WHOLE else settings.rates
    tried = {rate: dev_nats(name, lessons, rate) for rate in grid}
    best = min(tried, key=lambda each: tried[each])
    return {"rate": best, "tried": {f"{rate:g}": round(nats, 6) for rate, nats in tried.items()}}


def dev_nats(name: str, lessons: Lessons, rate: float) -> float:
    """Return the lowest dev loss of a method at a rate, 1e9 where it diverges."""
    try:
        if name == WHOLE:
            return fmean(lowest(whole_model(lessons, number, rate), WHOLE) for number in range(len(lessons.names)))
        shop = Workshop(tuned(lessons, rate))
        if name == "alter":
            shop.alone()
            return fmean(lowest(shop, f"task-{each}") for each in lessons.names)
        LEARN[name](shop)
        return lowest(shop, name)
    except TrainingError:
        return 1e9


def lowest(shop: Workshop, label: str) -> float:
    """Return the lowest dev loss of a fit."""
    best = shop.stages[label].history.best
    assert best is not None, "fits are measured"
    return best.loss


def tasks_experiment(settings: TaskSettings) -> Experiment:
    """Return the experiment with these settings."""
    return Experiment(
        pieces=(
            *(f"domain.{number}" for number in range(len(settings.domains))),
            *(f"pool.{name}" for name in ("tamoe", "moe", "dense")),
            *(f"without.{name}" for name in ("tamoe", "dense")),
        ),
        once=tuple(f"rate.{name}" for name in TUNED),
        run=TaskWork(settings).run,
        measure=functools.partial(measured, settings=settings),
        rows=rows,
        settings=settings.plain(),
    )


TOY_TASKS = tasks_experiment(TaskSettings())
