"""The table of methods: how each learns a task, and how what it learnt is composed for a text.

A method is two functions: `learn(scene, seen, before)` returns what is known after the last of the tasks seen, `compose
(scene, seen, knowledge)` how its adapters speak together.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.core.tables import nearest
from collegium.routers.gates.arrow import arrow
from collegium.tasks.continual.alone import learn_alone
from collegium.tasks.continual.attending import attention, learn_sapt, learn_sapt_none, learn_sapt_real
from collegium.tasks.continual.composing import Composition
from collegium.tasks.continual.config import Setup
from collegium.tasks.continual.growing import cosine_weights, learn_mocl, learn_olora, learn_progprompt
from collegium.tasks.continual.knowledge import Knowledge
from collegium.tasks.continual.nearest import euclidean, learn_means, mahalanobis, nearest_task, task_means
from collegium.tasks.continual.routing import (
    gate_weights,
    learn_l2r,
    learn_l2r_active,
    learn_l2r_merge,
    learn_l2r_softmax,
    spread,
)
from collegium.tasks.continual.scene import Scene
from collegium.tasks.continual.shared import (
    learn_ewc,
    learn_joint,
    learn_lwf,
    learn_replay,
    learn_sequential,
)

Learn = Callable[[Scene, tuple[int, ...], Knowledge], Knowledge]
Compose = Callable[[Scene, tuple[int, ...], Knowledge], Composition]


@dataclass(frozen=True)
class Method:
    """A row of the table. what: said of it in lists. paper: in docs/papers.md, None = none.

    told: whether it is given each text's task at test. isolated: whether its adapters are those trained alone.
    """

    learn: Learn
    compose: Compose
    what: str
    paper: str | None = None
    told: bool = False
    isolated: bool = False


def _adapters(scene: Scene, seen: tuple[int, ...]) -> tuple[str, ...]:
    return tuple(scene.lessons[task].name for task in seen)


def _one(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    return Composition(tuple(knowledge.adapters))


def _all(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    return Composition(_adapters(scene, seen))


def _uniform(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    share = torch.full((1, 1, len(seen)), 1 / len(seen))
    return Composition(_adapters(scene, seen), lambda rows: share.expand(len(rows), -1, -1))


def _oracle(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    numbers = torch.tensor(seen)

    def weigh(rows: Tensor) -> Tensor:
        return (scene.pool.tasks[rows][:, None] == numbers).float()[:, None]

    return Composition(_adapters(scene, seen), weigh)


def _up_to(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    places = torch.tensor([seen.index(task) if task in seen else 0 for task in range(len(scene.lessons))])

    def weigh(rows: Tensor) -> Tensor:
        return (torch.arange(len(seen)) <= places[scene.pool.tasks[rows]][:, None]).float()[:, None]

    return Composition(_adapters(scene, seen), weigh)


def _nearest(
    scene: Scene,
    seen: tuple[int, ...],
    knowledge: Knowledge,
    *,
    metric: Callable[[Scene, tuple[int, ...], Knowledge], Tensor],
) -> Composition:
    means, own = task_means(scene, seen, knowledge), metric(scene, seen, knowledge)

    def weigh(rows: Tensor) -> Tensor:
        places = nearest_task(scene.pool.queries[rows], means, own)
        return torch.nn.functional.one_hot(places, len(seen)).float()[:, None]

    return Composition(_adapters(scene, seen), weigh)


def _arrow(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    names = _adapters(scene, seen)
    gates = arrow().bind_gates(names, base=scene.base, adapters={name: knowledge.adapters[name] for name in names})
    return Composition(names, gates=gates.slots)


def _keyed(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    keys = torch.stack([knowledge.extra[f"key {name}"] for name in _adapters(scene, seen)])
    return Composition(_adapters(scene, seen), lambda rows: cosine_weights(scene.pool.queries[rows], keys))


def _attended(scene: Scene, seen: tuple[int, ...], knowledge: Knowledge) -> Composition:
    extra = knowledge.extra
    keys = torch.stack([extra[f"key {name}"] for name in _adapters(scene, seen)])

    def weigh(rows: Tensor) -> Tensor:
        return attention(scene.pool.embedded[rows], extra["query down"], extra["query up"], keys)[:, None]

    return Composition(_adapters(scene, seen), weigh)


def _routed(
    scene: Scene, seen: tuple[int, ...], knowledge: Knowledge, *, softmax: bool = False, merged: bool = False
) -> Composition:
    router = dict(knowledge.extra)
    blocks, every = router["router blocks"].tolist(), len(scene.base.blocks)

    def weigh(rows: Tensor) -> Tensor:
        gates = gate_weights(router, scene.pool.queries[rows], scene.config.temperature, softmax=softmax)
        return spread(gates, every, blocks)

    return Composition(_adapters(scene, seen), weigh, merged=merged)


METHODS: Mapping[str, Method] = {
    "l2r": Method(learn_l2r, _routed, "isolated adapters, a learned router a block", "araujo2024l2r", isolated=True),
    "l2r-merge": Method(
        learn_l2r_merge,
        partial(_routed, merged=True),
        "the same, parameters averaged in place of outputs",
        "araujo2024l2r",
        isolated=True,
    ),
    "l2r-softmax": Method(
        learn_l2r_softmax,
        partial(_routed, softmax=True),
        "the same, gates that sum to 1 (ablation)",
        "araujo2024l2r",
        isolated=True,
    ),
    "l2r-active": Method(
        learn_l2r_active, _routed, "the same, adapters trained while earlier ones speak (ablation)", "araujo2024l2r"
    ),
    "sapt": Method(learn_sapt, _attended, "shared attention, written texts keep it in place", "zhao2024sapt"),
    "sapt-real": Method(learn_sapt_real, _attended, "shared attention, remembered rows keep it", "zhao2024sapt"),
    "sapt-none": Method(learn_sapt_none, _attended, "shared attention, free to drift (ablation)", "zhao2024sapt"),
    "sequential": Method(learn_sequential, _one, "one adapter goes on"),
    "replay": Method(learn_replay, _one, "one adapter, remembered rows beside each batch"),
    "ewc": Method(learn_ewc, _one, "one adapter, held where earlier tasks need it", "kirkpatrick2017ewc"),
    "lwf": Method(learn_lwf, _one, "one adapter, says of new texts what it said before", "li2017lwf"),
    "olora": Method(learn_olora, _all, "adapters at right angles, all speak", "wang2023olora"),
    "epi": Method(
        learn_means,
        partial(_nearest, metric=mahalanobis),
        "isolated, task by Mahalanobis",
        "wang2023epi",
        isolated=True,
    ),
    "mocl": Method(learn_mocl, _keyed, "adapters weighed by keys learnt with them", "wang2024mocl"),
    "progprompt": Method(
        learn_progprompt, _up_to, "prefixes behind earlier ones; needs the task", "razdaibiedina2023", told=True
    ),
    "centroid": Method(
        learn_means, partial(_nearest, metric=euclidean), "isolated, task by the nearest class mean", isolated=True
    ),
    "uniform": Method(learn_alone, _uniform, "isolated, all weighed alike", isolated=True),
    "arrow": Method(
        learn_alone, _arrow, "isolated, by the adapters' own directions", "ostapenko2024arrow", isolated=True
    ),
    "oracle": Method(learn_alone, _oracle, "isolated, the right adapter: the upper bound", told=True, isolated=True),
    "joint": Method(learn_joint, _one, "one adapter on all tasks so far together"),
}


def chosen_methods(names: tuple[str, ...], setup: Setup) -> dict[str, Method]:
    """Return the methods of these names, in order; raises ConfigError for others, or for one that the setup forbids."""
    for name in names:
        if name not in METHODS:
            raise ConfigError(f"there is no method {name!r}. {nearest(name, METHODS)}")
    if len(set(names)) < len(names) or not names:
        raise ConfigError(f"--methods names one at least and each once, got {', '.join(names) or 'none'}.")
    if setup == "class" and "progprompt" in names:
        raise ConfigError(
            "progprompt needs each text's task at test, which --setup class does not tell; use --setup task. "
            "(oracle is told it in both, as the upper bound.)"
        )
    return {name: METHODS[name] for name in names}
