"""Exact claims on learning in isolation, on a pico model. L1, L2."""

from dataclasses import replace

import torch

from collegium.claims.experiment import Place, one_piece
from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.tasks.continual import METHODS, ContinualConfig, Knowledge, Scene, Stage, learn_next, make_pool
from collegium.testing.pico import pico_base

_QUICK = ContinualConfig(
    train_rows=40, dev_rows=8, test_rows=8, text_tokens=56, memory=4, rank=4, layers="top:1", passes=1.0, batch=8,
    rates=(3e-3,), router_steps=6, template=" :", threads=1,
)  # fmt: skip
_ORDERS = ((0, 1, 2), (2, 0, 1), (1, 2, 0))


def isolation(place: Place) -> dict[str, float]:
    """Return L1's law: by how much adapters of three orders differ, and how much those of a shared one do."""
    scene = _scene(place.number)
    ends = [_through(replace(scene, once={}), "l2r", order).knowledge for order in _ORDERS]
    shared = [_through(replace(scene, once={}), "sequential", order).knowledge for order in _ORDERS]
    gaps = [_gap(ends[0], other, name) for other in ends[1:] for name in ends[0].adapters]
    return {
        "adapters_that_differ": float(sum(gap > 0 for gap in gaps)),
        "shared_adapters_alike": float(sum(_gap(shared[0], other, "shared") == 0 for other in shared[1:])),
    }


def forgetting(place: Place) -> dict[str, float]:
    """Return L2's law: what of an adapter or a head that was learnt changes by all that is learnt later."""
    scene = _scene(place.number)
    stage, first = None, {}
    for task in (0, 1, 2):
        stage = learn_next(scene, METHODS["l2r"], task, stage)
        first |= {name: each for name, each in _tensors(stage.knowledge).items() if name not in first}
    assert stage is not None
    last = _tensors(stage.knowledge)
    return {"tensors_that_changed": float(sum(not torch.equal(first[name], last[name]) for name in first))}


def _scene(seed: int) -> Scene:
    base, config = pico_base(seed), replace(_QUICK, seed=seed)
    pool, lessons = make_pool(base, synthetic_tasks((0, 0, 1), rows=120, seed=seed), config)
    return Scene(base, config, pool, lessons, config.rates[0])


def _through(scene: Scene, name: str, order: tuple[int, ...]) -> Stage:
    stage = None
    for task in order:
        stage = learn_next(scene, METHODS[name], task, stage)
    assert stage is not None
    return stage


def _tensors(knowledge: Knowledge) -> dict[str, torch.Tensor]:
    """Return copies of adapters and heads; routers are fitted anew, and meant to."""
    own = {name: each for name, each in knowledge.to_tensors().items() if not name.startswith("extra:")}
    return {name: each.clone() for name, each in own.items()}


def _gap(one: Knowledge, other: Knowledge, adapter: str) -> float:
    mine, others = (_tensors(each) for each in (one, other))
    names = [name for name in mine if name.startswith(f"adapter:{adapter}:")]
    return max(float((mine[name] - others[name]).abs().max()) for name in names)


CONTINUAL_LAWS = {"isolation": one_piece("orders", isolation), "keeping": one_piece("stages", forgetting)}
"""By the name of the experiment."""
