"""From a workshop to an expert of kind `mta`: payload, card, and what is measured beside it."""

import datetime
from collections.abc import Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import ExpertCard, Source, content_hash
from collegium.core.names import check_name
from collegium.experts import Expert, MtaPayload
from collegium.experts.fresh import with_tensors
from collegium.models import HeadWeights, TaskGate
from collegium.rewards.fit import curve_of
from collegium.tasks.multitask.workshop import Workshop
from collegium.train import History


def mixture_payload(shop: Workshop) -> MtaPayload:
    """Return what both stages made, in memory of its own on the processor; what is missing is fitted first."""

    def kept(tensor: Tensor) -> Tensor:
        return tensor.detach().to("cpu", copy=True)

    adapters = {name: with_tensors(adapter, kept) for name, adapter in shop.alone().items()}
    found, router = shop.gates(), shop.router()
    gates = {path: TaskGate(kept(gate.query), kept(gate.keys), gate.top_k) for path, gate in found.gates.items()}
    bias = None if router.bias is None else kept(router.bias)
    return MtaPayload(adapters, gates, kept(found.vectors), HeadWeights(kept(router.weight), bias))


def task_expert(shop: Workshop, name: str, *, sources: Sequence[Source] = ()) -> Expert:
    """Return the expert of all tasks of a workshop, with its card."""
    check_name(name)
    lessons, payload = shop.lessons, mixture_payload(shop)
    recipe = {
        "method": "fit mta",
        **lessons.config.recipe(),
        "threads": lessons.config.threads or torch.get_num_threads(),
        "tasks": list(lessons.names),
        "rows": dict(zip(lessons.names, lessons.rows, strict=True)),
        "dtype": str(lessons.base.dtype).removeprefix("torch."),
        "device": lessons.base.device.type,
    }
    card = ExpertCard(
        name=name,
        kind="mta",
        base=lessons.base.fingerprint,
        sources=tuple(sources),
        documents=lessons.documents,
        tokens_seen=tokens_seen(shop),
        trained_parameters=payload.parameters,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        constants={"text_tokens": lessons.config.text_tokens, "cut_prompts": lessons.cut},
        warnings=tuple(warnings_of(shop)),
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )
    return Expert(card, payload)


def tokens_seen(shop: Workshop) -> int:
    """Return how many tokens both stages read, about: each fit's rows times the mean length of their texts."""
    lengths, tasks, batch = shop.lessons.train.texts.lengths, shop.lessons.train.tasks, shop.lessons.config.batch
    steps = {label: len(stage.history.steps) for label, stage in shop.stages.items()}
    alone = (
        steps[f"task-{name}"] * batch * float(lengths[tasks == place].float().mean())
        for place, name in enumerate(shop.lessons.names)
    )
    return round(sum(alone) + steps["gates"] * batch * float(lengths.float().mean()))


def warnings_of(shop: Workshop) -> list[str]:
    """Return a sentence for each fit that gained nothing on its dev rows."""
    found = []
    for label in (*(f"task-{name}" for name in shop.lessons.names), "gates"):
        history = shop.stages[label].history
        start, best = history.evaluations[0], history.best
        if history.steps and (best is None or best.loss >= start.loss):
            what = "the gates" if label == "gates" else f"the adapter of {label.removeprefix('task-')!r}"
            found.append(
                f"{what} did not beat the first weights on dev rows ({start.loss:.4f} nats a token), which were kept. "
                "Give more rows, or lower the learning rate."
            )
    return found


def curves_of(shop: Workshop) -> dict[str, Any]:
    """Return the learning curves of all fits as plain values: what is kept beside the card."""
    return {"kind": "training", "fits": {label: _curve(stage.history) for label, stage in shop.stages.items()}}


def _curve(history: History) -> dict[str, Any]:
    return {name: value for name, value in curve_of(history).items() if name != "kind"}


def stage_shares(shop: Workshop) -> dict[str, Any]:
    """Return what the second stage is of the whole: parameters it trains, and seconds it takes.

    The router is counted with it: without it the task must be given.
    """
    payload = mixture_payload(shop)
    adapters = sum(
        each.numel()
        for adapter in payload.adapters.values()
        for each in chain.from_iterable(part.tensors.values() for part in adapter.values())
    )
    first = shop.seconds(*(f"task-{name}" for name in shop.lessons.names))
    second = shop.seconds("gates", "router")
    return {
        "inter_parameters": payload.parameters - adapters,
        "intra_parameters": adapters,
        "inter_share_of_parameters": (payload.parameters - adapters) / payload.parameters,
        "reading_seconds": round(shop.reading_seconds or 0.0, 3),
        "intra_seconds": round(first, 3),
        "inter_seconds": round(second, 3),
        "inter_share_of_seconds": second / (first + second) if first + second else 0.0,
    }
