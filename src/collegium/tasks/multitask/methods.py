"""Ways to do many tasks with one backbone: a row each. All read the same rows in as many updates as two stages have.

alter         stage 1: an adapter a task, alone; stage 2: gates over them [xie2023alter, our reading]
alter-routed  the same weights, the task told from the prompt in place of given
one-stage     the same module, adapters and gates together from scratch
shared        one adapter of as many numbers as the module has
separate      the adapters of stage 1, each asked for its own task: no gates
tamoe         sparse gates that are told the task, all together from scratch [gupta2022tamoe]
moe           the same, told nothing of the task
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from jaxtyping import Int
from torch import Tensor

from collegium.models import Adapter, Group, RowPlan
from collegium.rewards.fit import adapter_weights
from collegium.rewards.more import attached_as
from collegium.tasks.multitask.measure import Quality, measure
from collegium.tasks.multitask.objective import Plan
from collegium.tasks.multitask.parts import SPREAD, Gates, adapter_size, equal_rank, fresh_gates, task_adapter
from collegium.tasks.multitask.workshop import Workshop


@dataclass(frozen=True, eq=False)
class Learnt:
    """What a method made: adapters to attach, how rows are run through them, and its cost.

    parameters: the numbers it adds to the base. seconds: of its training; what methods share counts for each. gates:
    what weighs the adapters, None where nothing does.
    """

    adapters: Mapping[str, Adapter]
    plan: Plan
    parameters: int
    seconds: float
    gates: Gates | None = None


@dataclass(frozen=True)
class Method:
    """A row of the table. told: whether it is given the task of a test row."""

    learn: Callable[[Workshop], Learnt]
    paper: str | None
    told: bool


def _isolated(shop: Workshop) -> dict[str, Adapter]:
    return dict(zip(shop.keys, shop.alone().values(), strict=True))


def _stage_1(shop: Workshop) -> float:
    return shop.seconds(*(f"task-{name}" for name in shop.lessons.names))


def learn_alter(shop: Workshop) -> Learnt:
    """Return the mixture of both stages, its gates told the task."""
    adapters, gates = _isolated(shop), shop.gates()
    size = sum(map(adapter_size, adapters.values())) + _gate_numbers(shop)
    return Learnt(adapters, shop.gated(gates), size, _stage_1(shop) + shop.seconds("gates"), gates)


def learn_routed(shop: Workshop) -> Learnt:
    """Return the same mixture, its gates told what the router makes of the prompt."""
    found, router = learn_alter(shop), shop.router()
    size = found.parameters + sum(each.numel() for each in router.tensors.values())
    seconds = found.seconds + shop.seconds("router")
    return Learnt(found.adapters, shop.routed(shop.gates(), router), size, seconds, found.gates)


def learn_separate(shop: Workshop) -> Learnt:
    """Return the adapters of stage 1, each for its own task."""
    adapters = _isolated(shop)
    return Learnt(adapters, own_adapters(shop.keys), sum(map(adapter_size, adapters.values())), _stage_1(shop))


def own_adapters(keys: Sequence[str]) -> Plan:
    """Return the plan by which each row is run through its own task's adapter."""

    def plan(tasks: Int[Tensor, " row"], states: object) -> RowPlan:
        return RowPlan((Group(tuple(keys), index=tasks[:, None]),))

    return plan


def learn_shared(shop: Workshop) -> Learnt:
    """Return one adapter of all tasks, of as many numbers as adapters and gates have together."""
    lessons = shop.lessons
    wanted = len(lessons.names) * adapter_size(task_adapter(lessons.base, lessons.config)) + _gate_numbers(shop)
    return learn_one(shop, "shared", rank=equal_rank(lessons.base, lessons.config, wanted))


def learn_dense(shop: Workshop) -> Learnt:
    """Return one adapter of all tasks as wide as those that a sparse gate keeps: a token costs as much, gates apart."""
    config = shop.lessons.config
    return learn_one(shop, "dense", rank=config.rank * min(config.top_k, len(shop.lessons.names)))


def learn_one(shop: Workshop, label: str, *, rank: int) -> Learnt:
    """Return one adapter of this rank that is trained on the rows of all tasks."""
    lessons, key = shop.lessons, shop.keys[0]
    adapter = task_adapter(lessons.base, lessons.config, rank=rank)
    with attached_as(lessons.base, {key: adapter}):
        shop.fit(
            label,
            lambda tasks, states: RowPlan.one(key),
            adapter_weights(adapter),
            steps=lessons.joint_steps,
            rate=lessons.config.learning_rate,
        )
    return Learnt({key: adapter}, lambda tasks, states: RowPlan.one(key), adapter_size(adapter), shop.seconds(label))


def learn_together(shop: Workshop, label: str, *, top_k: int | None, agnostic: bool) -> Learnt:
    """Return adapters and gates trained together from scratch.

    Each adapter is drawn by itself: of equal ones gates could not tell which to prefer.
    """
    lessons = shop.lessons
    config = lessons.config
    adapters = {
        key: task_adapter(lessons.base, config, label=f"adapter {place}") for place, key in enumerate(shop.keys)
    }
    first = next(iter(adapters.values()))
    gates = fresh_gates(lessons.base, first, lessons.names, config, spread=SPREAD, top_k=top_k, agnostic=agnostic)
    weights = {
        f"{key}.{name}": each for key, adapter in adapters.items() for name, each in adapter_weights(adapter).items()
    }
    faster = dict.fromkeys(gates.weights, config.gate_learning_rate / config.learning_rate)
    with attached_as(lessons.base, adapters):
        shop.fit(
            label,
            shop.gated(gates),
            weights | gates.weights,
            steps=lessons.joint_steps,
            rate=config.learning_rate,
            rates=faster,
        )
    size = sum(map(adapter_size, adapters.values())) + gates.parameters
    return Learnt(adapters, shop.gated(gates), size, shop.seconds(label), gates)


def learn_one_stage(shop: Workshop) -> Learnt:
    """Return the module of alter, learnt in one stage."""
    return learn_together(shop, "one-stage", top_k=None, agnostic=False)


def learn_tamoe(shop: Workshop) -> Learnt:
    """Return a sparse mixture whose gates are told the task."""
    return learn_together(shop, "tamoe", top_k=shop.lessons.config.top_k, agnostic=False)


def learn_moe(shop: Workshop) -> Learnt:
    """Return a sparse mixture whose gates read the hidden states alone."""
    return learn_together(shop, "moe", top_k=shop.lessons.config.top_k, agnostic=True)


def _gate_numbers(shop: Workshop) -> int:
    lessons = shop.lessons
    adapter = task_adapter(lessons.base, lessons.config)
    return fresh_gates(lessons.base, adapter, lessons.names, lessons.config).parameters


METHODS: Mapping[str, Method] = {
    "alter": Method(learn_alter, "xie2023alter", told=True),
    "alter-routed": Method(learn_routed, "xie2023alter", told=False),
    "one-stage": Method(learn_one_stage, "xie2023alter", told=True),
    "shared": Method(learn_shared, None, told=False),
    "separate": Method(learn_separate, None, told=True),
    "tamoe": Method(learn_tamoe, "gupta2022tamoe", told=True),
    "moe": Method(learn_moe, "gupta2022tamoe", told=False),
}
"""Name -> how it learns."""


def judged(shop: Workshop, learnt: Learnt, *, progress: Callable[[int], None] | None = None) -> Quality:
    """Return how well a method does the test rows."""
    with attached_as(shop.lessons.base, learnt.adapters):
        return measure(shop.lessons, learnt.plan, progress=progress)


def base_quality(shop: Workshop) -> Quality:
    """Return how well the base alone does."""
    alone = RowPlan((Group(),))
    return measure(shop.lessons, lambda tasks, states: alone)
