"""Mixtures of task adapters on disk, in a form of our own: one folder with adapters, gates, task vectors and router."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.core.errors import IncompatibleExpert
from collegium.core.names import is_name
from collegium.experts.own_files import read_own, write_own_tensors
from collegium.experts.payloads import ROUTER, TASKS, MtaPayload
from collegium.experts.places import Sites, check_parts, check_sites, check_tensors
from collegium.models import Adapter, BottleneckWeights, HeadWeights, TaskGate

_GATE = ""
"""What stands in a tensor's name where an adapter's has its task."""


def write_mta(payload: MtaPayload, folder: Path) -> None:
    """Write the two files, with the tasks' order, the adapters' scale and the gates' choice in config.json."""
    for task, adapter in payload.adapters.items():
        check_parts(adapter, where=f"the new expert, task {task}")
    write_own_tensors("mta", payload.tensors, folder, fields=mta_fields(payload))


def mta_fields(payload: MtaPayload) -> dict[str, Any]:
    """Return what a mixture keeps beside tensors; raises IncompatibleExpert where its parts differ in that."""
    parts = (part for adapter in payload.adapters.values() for part in adapter.values())
    scales = {part.scale for part in parts if isinstance(part, BottleneckWeights)}
    chosen = {gate.top_k for gate in payload.gates.values()}
    if len(scales) != 1 or len(chosen) != 1:
        raise IncompatibleExpert(
            f"the adapters of a mixture have one scale and its gates one top_k, got {sorted(scales)} and {chosen}."
        )
    return {"tasks": list(payload.tasks), "scale": scales.pop(), "top_k": chosen.pop()}


def read_mta(folder: Path, *, sites: Sites | None = None) -> MtaPayload:
    """Return the mixture in a folder; `sites` are the base's, with which its adapters must agree."""
    fields = {"tasks": _tasks, "scale": _scale, "top_k": _top_k}
    config, tensors = read_own("mta", folder, fields=fields)
    where, tasks = str(folder), config["tasks"]
    own, router = tensors.pop(TASKS, {}), tensors.pop(ROUTER, {})
    if own.keys() != {"vectors"} or not {"weight"} <= router.keys() <= {"weight", "bias"}:
        raise IncompatibleExpert(f"{where}: the tasks' vectors or the router are missing, or not of these names alone.")
    _check_shapes(own | router, {"vectors": 2, "weight": 2, "bias": 1}, where=where)
    adapters: dict[str, Adapter] = {task: {} for task in tasks}
    gates = {}
    for path, every in tensors.items():
        parts = _by_task(every, where=f"{where}: {path}")
        if parts.keys() != {_GATE, *tasks}:
            raise IncompatibleExpert(f"{where}: {path} has adapters of {sorted(parts)}, the tasks are {tasks}.")
        gates[path] = _gate(parts.pop(_GATE), config["top_k"], where=f"{where}: {path}")
        for task, each in parts.items():
            check_tensors("bottleneck", {path: each}, where=f"{where}: task {task}")
            adapters[task] = {**adapters[task], path: BottleneckWeights(**each, scale=float(config["scale"]))}
    found = MtaPayload(adapters, gates, own["vectors"], HeadWeights(router["weight"], router.get("bias")))
    check_mta_sites(found, sites, where=where)
    return found


def check_mta_sites(payload: MtaPayload, sites: Sites | None, *, where: str) -> None:
    """Raise IncompatibleExpert when an adapter does not fit the places of a base."""
    if sites is not None:
        for task, adapter in payload.adapters.items():
            check_sites(adapter, sites, where=f"{where}: task {task}")


def _gate(tensors: Mapping[str, Tensor], top_k: int | None, *, where: str) -> TaskGate:
    if tensors.keys() != {"query", "keys"}:
        raise IncompatibleExpert(f"{where}: a gate has a query and keys, this one has {sorted(tensors)}.")
    _check_shapes(tensors, {"query": 2, "keys": 2}, where=where)
    return TaskGate(tensors["query"], tensors["keys"], top_k)


def _check_shapes(tensors: Mapping[str, Tensor], axes: Mapping[str, int], *, where: str) -> None:
    for name, tensor in tensors.items():
        if tensor.ndim != axes[name] or not tensor.is_floating_point():
            raise IncompatibleExpert(
                f"{where}: {name!r} has {axes[name]} axes of floating-point numbers, got {tuple(tensor.shape)} of "
                f"{tensor.dtype}."
            )


def _by_task(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, dict[str, Tensor]]:
    """Return task -> the tensors of its adapter by name, the gate's under the empty name."""
    found: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        task, colon, name = key.partition(":")
        if not (colon and name):
            raise IncompatibleExpert(f"{where}: tensor {key!r} is not named after a task and a part of it.")
        found.setdefault(task, {})[name] = tensor
    return found


def _tasks(value: Any) -> bool:  # noqa: ANN401 - any JSON
    names = isinstance(value, list) and all(isinstance(each, str) and is_name(each) for each in value)
    return names and len(set(value)) == len(value)


def _scale(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _top_k(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return value is None or (isinstance(value, int) and not isinstance(value, bool) and value >= 1)
