"""IA3 experts as PEFT folders: adapter_config.json and adapter_model.safetensors, byte-loadable by PEFT.

PEFT keeps the factors as a column `[outputs, 1]` where a layer's output is rescaled, and as a row `[1, inputs]` where
its input is: there the layer is one of `feedforward_modules`.
"""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from collegium.core.cards import read_json, to_json
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.core.files import write_new
from collegium.core.tensors import check_finite, read_tensors, tensor_bytes
from collegium.experts.payloads import AdapterPayload
from collegium.experts.peft_fields import (
    CONFIG_FILE,
    TENSOR_FILE,
    are_names,
    check_fields,
    check_targets,
    linear_paths,
    targeted,
)
from collegium.experts.places import Sites, check_parts, check_sites
from collegium.models import Ia3Weights

_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.ia3_l")
_KNOWN = frozenset({"target_modules", "exclude_modules", "feedforward_modules", "fan_in_fan_out", "init_ia3_weights"})
"""What is honoured, and `init_ia3_weights`, which says nothing about factors that were trained."""


def write_ia3(payload: AdapterPayload, folder: Path) -> None:
    """Write PEFT's two files; raises CorruptExpert when a weight is not finite."""
    check_parts(payload.adapter, where="the new expert")
    parts = {path: part for path, part in payload.adapter.items() if isinstance(part, Ia3Weights)}
    tensors = {f"base_model.model.{path}.ia3_l": _matrix(part) for path, part in parts.items()}
    check_finite(tensors, where="the new expert")
    config = {
        "peft_type": "IA3",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "target_modules": sorted(parts),
        "feedforward_modules": sorted(path for path, part in parts.items() if part.side == "input"),
        "fan_in_fan_out": payload.fan_in_fan_out,
        "init_ia3_weights": True,
        "inference_mode": True,
    }
    write_new(folder / CONFIG_FILE, to_json(config).encode())
    write_new(folder / TENSOR_FILE, tensor_bytes(tensors))


def read_ia3(folder: Path, *, sites: Sites | None = None) -> AdapterPayload:
    """Return the adapter in a PEFT folder; `sites` are the base's, with which it must agree.

    Raises CorruptExpert or IncompatibleExpert, saying what differs.
    """
    where, config = str(folder), read_json(folder / CONFIG_FILE)
    check_fields(config, kind="IA3", known=_KNOWN, defaults={}, problems=_wrong_types(config), where=where)
    factors = _factors(read_tensors(folder / TENSOR_FILE), where=where)
    wanted = targeted(config, sorted({*factors, *linear_paths(sites)}), where=where)
    check_targets(factors.keys(), wanted.keys(), sites, where=where)
    inputs = _rescaled_inputs(config, factors.keys(), where=where)
    adapter = {path: _part(each, input_side=path in inputs, where=f"{where}: {path}") for path, each in factors.items()}
    if sites is not None:
        check_sites(adapter, sites, where=where)
    return AdapterPayload(adapter, fan_in_fan_out=bool(config.get("fan_in_fan_out", False)))


def _matrix(part: Ia3Weights) -> Tensor:
    return part.factors[None, :] if part.side == "input" else part.factors[:, None]


def _factors(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, Tensor]:
    found = {}
    for key, tensor in sorted(tensors.items()):
        match = _KEY.fullmatch(key)
        if not match or not tensor.is_floating_point() or tensor.dim() != 2 or 1 not in tensor.shape:
            raise IncompatibleExpert(
                f"{where}: tensor {key!r} ({tensor.dtype}, {tuple(tensor.shape)}) holds no factors of a linear layer."
            )
        found[match["path"]] = tensor
    if not found:
        raise CorruptExpert(f"{where}: the file holds no factors at all.")
    return found


def _rescaled_inputs(config: Mapping[str, Any], paths: Collection[str], *, where: str) -> set[str]:
    """Return the paths whose input is rescaled: `feedforward_modules` is a pattern, or ends of paths (PEFT's rule)."""
    said = config["feedforward_modules"]
    if isinstance(said, str):
        return set(targeted({"target_modules": f"(?:{said})"}, sorted(paths), where=where))
    return {path for path in paths if path.endswith(tuple(said))}


def _part(factors: Tensor, *, input_side: bool, where: str) -> Ia3Weights:
    side: Literal["input", "output"] = "input" if input_side else "output"
    if factors.shape[0 if input_side else 1] != 1:
        raise IncompatibleExpert(
            f"{where}: adapter_config.json says that the layer's {side} is rescaled, the factors are "
            f"{tuple(factors.shape)}."
        )
    return Ia3Weights(factors.flatten(), side)


def _wrong_types(config: Mapping[str, Any]) -> list[str]:
    excluded = config.get("exclude_modules")
    checks = {
        "target_modules": bool(config.get("target_modules")) and are_names(config["target_modules"]),
        "exclude_modules": excluded is None or are_names(excluded),
        "feedforward_modules": are_names(config.get("feedforward_modules")),
        "fan_in_fan_out": isinstance(config.get("fan_in_fan_out", False), bool),
    }
    return [f"{field} = {config.get(field)!r}" for field, fits in checks.items() if not fits]
