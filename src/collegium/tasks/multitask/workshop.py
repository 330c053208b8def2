"""The workshop of many tasks: adapters that are trained alone, gates on top of them, and what tells tasks apart.

Stage 1 (intra-task): adapter i is trained on task i alone, at weight 1: one-hot gates. What it comes to depends on
its own rows, the base and the settings, on nothing of the other tasks, nor on their order.
Stage 2 (inter-task): base and adapters are frozen; gates and the tasks' vectors are trained on the rows of all tasks,
from even weights on, in a share of the steps; what they come to is measured before and after alone, for looking at dev
rows more often would take longer than the steps.                                    [xie2023alter; our reading]
The router is a logistic regression on mean and last of the prompts' states, fitted beside; nothing else depends on it.
"""

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from collegium.compose import mixture_plan
from collegium.core.files import write_text
from collegium.core.randomness import derive_seed
from collegium.experts.fresh import with_tensors
from collegium.experts.recipe import using_threads
from collegium.models import Adapter, HeadWeights, RowPlan, memory_errors
from collegium.rewards.fit import adapter_weights
from collegium.rewards.more import attached_as
from collegium.tasks.multitask.lessons import Lessons
from collegium.tasks.multitask.objective import Plan, TaskObjective, fit_tasks
from collegium.tasks.multitask.parts import Gates, fresh_gates, task_adapter
from collegium.train import Epochs, Fit, History, Logger, LoopConfig, Loss, NullLogger, fit

ROUTER_STEPS = 100
ROUTER_RATE = 1e-2


@dataclass(frozen=True, eq=False)
class Stage:
    """What a fit went through, and how long it took."""

    history: History
    seconds: float


@dataclass(eq=False)
class Workshop:
    """Lessons, and what was made of them so far; adapters that are trained alone are trained once for all methods.

    folder: where interrupted fits lie, None = they cannot go on. begin: told what is fitted in how many steps, returns
    their logger. stages: what each fit went through, by name. reading_seconds: what computing the states below took.
    """

    lessons: Lessons
    folder: Path | None = None
    begin: Callable[[str, int], Logger] = lambda label, steps: NullLogger()
    stages: dict[str, Stage] = field(default_factory=dict)
    reading_seconds: float | None = None
    _alone: dict[str, Adapter] = field(default_factory=dict)
    _gates: Gates | None = None
    _router: HeadWeights | None = None

    @property
    def keys(self) -> tuple[str, ...]:
        """The names that tasks' adapters are attached under while they are trained or measured."""
        return tuple(f".task-{place}" for place in range(len(self.lessons.names)))

    def alone(self) -> dict[str, Adapter]:
        """Return each task's adapter, trained on its own rows alone (stage 1)."""
        for place, name in enumerate(self.lessons.names):
            if name not in self._alone:
                self._alone[name] = self._isolated(place, name)
        return self._alone

    def gates(self) -> Gates:
        """Return the gates trained on all tasks over the frozen adapters (stage 2)."""
        if self._gates is None:
            lessons, adapters = self.lessons, self.alone()
            steps = lessons.config.inter_steps(sum(lessons.steps))
            first = next(iter(adapters.values()))
            gates = fresh_gates(lessons.base, first, lessons.names, lessons.config)
            with attached_as(lessons.base, dict(zip(self.keys, adapters.values(), strict=True))):
                rate = lessons.config.gate_learning_rate
                self.fit("gates", self.gated(gates), gates.weights, steps=steps, rate=rate, measures=1)
            self._gates = frozen(gates)
        return self._gates

    def router(self) -> HeadWeights:
        """Return what tells the task of a prompt from its states."""
        if self._router is None:
            self._router = self._fitted_router()
        return self._router

    def gated(self, gates: Gates) -> Plan:
        """Return the plan by which rows are run through all adapters, weighed by gates that are told their task."""
        return lambda tasks, states: mixture_plan(self.keys, gates.gates, gates.vectors[tasks.to(gates.vectors.device)])

    def routed(self, gates: Gates, router: HeadWeights) -> Plan:
        """Return the plan of rows whose task is not given: gates are told what the router makes of their prompts."""
        return lambda tasks, states: mixture_plan(self.keys, gates.gates, router(states()).softmax(-1) @ gates.vectors)

    def fit(
        self,
        label: str,
        plan: Plan,
        weights: Mapping[str, Tensor],
        *,
        steps: int,
        rate: float,
        rates: Mapping[str, float] | None = None,
        measures: int | None = None,
        task: int | None = None,
    ) -> Fit:
        """Return a fit on the rows of all tasks, or of one, and note what it went through."""
        self.read()
        start, lessons = time.perf_counter() - self._spent(label), self.lessons
        train, dev = (pool if task is None else pool.of_task(task) for pool in (lessons.train, lessons.dev))
        epochs = Epochs(len(train), lessons.config.batch, derive_seed(lessons.config.seed, "multitask", label))
        objective = TaskObjective(lessons.base, plan, train, dev, epochs)
        logger = self.begin(label, steps)
        threads = lessons.config.threads or torch.get_num_threads()
        try:
            with using_threads(threads), memory_errors("--batch or --text-tokens, or --layers to top:K"):
                done = fit_tasks(
                    objective,
                    weights,
                    config=lessons.config,
                    steps=steps,
                    rate=rate,
                    rates=rates,
                    measures=measures,
                    folder=self.folder,
                    label=label,
                    logger=logger,
                )
        finally:
            self._note_spent(label, time.perf_counter() - start)
        logger.close()
        self.stages[label] = Stage(done.history, time.perf_counter() - start)
        return done

    def seconds(self, *labels: str) -> float:
        """Return how long these fits took together."""
        return sum(self.stages[label].seconds for label in labels)

    def read(self) -> None:
        """Compute what lies below the adapters, once, so that no method's seconds count it."""
        if self.reading_seconds is None:
            start = time.perf_counter()
            self.lessons.train.read()
            self.lessons.dev.read()
            self.reading_seconds = time.perf_counter() - start

    def _spent(self, label: str) -> float:
        """Return the seconds that a fit took before it was interrupted."""
        file = None if self.folder is None else self.folder / f"{label}.seconds"
        return float(file.read_text()) if file is not None and file.is_file() else 0.0

    def _note_spent(self, label: str, seconds: float) -> None:
        if self.folder is not None:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_text(self.folder / f"{label}.seconds", f"{seconds:.3f}")

    def _isolated(self, place: int, name: str) -> Adapter:
        lessons = self.lessons
        adapter, key = task_adapter(lessons.base, lessons.config), self.keys[place]
        plan = RowPlan.one(key)
        with attached_as(lessons.base, {key: adapter}):
            self.fit(
                f"task-{name}",
                lambda tasks, states: plan,
                adapter_weights(adapter),
                steps=lessons.steps[place],
                rate=lessons.config.learning_rate,
                task=place,
            )
        return with_tensors(adapter, lambda tensor: tensor.detach().clone())

    def _fitted_router(self) -> HeadWeights:
        start, lessons = time.perf_counter(), self.lessons
        states = lessons.train.prompt_states(lessons.base, lessons.first)
        tasks = lessons.train.tasks.to(states.device)
        weight = torch.zeros(len(lessons.names), states.shape[1], device=states.device, requires_grad=True)
        bias = torch.zeros(len(lessons.names), device=states.device, requires_grad=True)

        def loss(step: int, part: int) -> Loss:
            said = states @ weight.T + bias
            return Loss(torch.nn.functional.cross_entropy(said, tasks, reduction="sum"), len(tasks))

        loop = LoopConfig(ROUTER_STEPS, ROUTER_RATE, weight_decay=lessons.config.weight_decay)
        done = fit({"weight": weight, "bias": bias}, loss, config=loop)
        self.stages["router"] = Stage(done.history, time.perf_counter() - start)
        return HeadWeights(weight.detach(), bias.detach())


def frozen(gates: Gates) -> Gates:
    """Return gates that are trained no more."""
    settled = {
        path: type(gate)(gate.query.detach(), gate.keys.detach(), gate.top_k) for path, gate in gates.gates.items()
    }
    return Gates(settled, gates.vectors.detach())
