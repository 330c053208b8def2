"""LoRA experts as PEFT folders: adapter_config.json and adapter_model.safetensors, byte-loadable by PEFT.

A judge's head is what PEFT calls a module to save: `base_model.model.score.weight` beside the matrices.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.core.cards import read_json, to_json
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.core.files import write_new
from collegium.core.tensors import check_finite, read_tensors, tensor_bytes
from collegium.experts.payloads import AdapterPayload
from collegium.experts.peft_config import HEADS, SiteScale, check_peft_config, peft_config, site_scales
from collegium.experts.peft_fields import CONFIG_FILE, TENSOR_FILE, check_targets, linear_paths
from collegium.experts.places import Sites, check_sites
from collegium.models import HeadWeights, LoraWeights

_PREFIX = "base_model.model."
_KEY = re.compile(r"base_model\.model\.(?P<path>.+)\.lora_(?P<half>[AB])\.weight")


def write_lora(payload: AdapterPayload, folder: Path) -> None:
    """Write PEFT's two files; raises CorruptExpert when a weight is not finite."""
    tensors = {
        f"base_model.model.{path}.lora_{half}.weight": tensor
        for path, weights in payload.lora.items()
        for half, tensor in (("A", weights.a), ("B", weights.b))
    }
    if payload.head is not None:
        tensors |= {f"{_PREFIX}{payload.head.module}.{name}": each for name, each in payload.head.tensors.items()}
    check_finite(tensors, where="the new expert")
    write_new(folder / CONFIG_FILE, to_json(peft_config(payload)).encode())
    write_new(folder / TENSOR_FILE, tensor_bytes(tensors))


def read_lora(folder: Path, *, sites: Sites | None = None) -> AdapterPayload:
    """Return the adapter in a PEFT folder; `sites` are the base's, with which it must agree.

    Raises CorruptExpert or IncompatibleExpert, saying what differs.
    """
    config = read_json(folder / CONFIG_FILE)
    check_peft_config(config, where=str(folder))
    tensors = read_tensors(folder / TENSOR_FILE)
    head = _head(tensors, config, where=str(folder))
    halves = _pairs(tensors, where=str(folder))
    scales = site_scales(config, sorted({*halves, *linear_paths(sites)}), where=str(folder))
    check_targets(halves.keys(), scales.keys(), sites, where=str(folder))
    adapter = {path: _weights(*pair, scales[path], where=f"{folder}: {path}") for path, pair in halves.items()}
    if sites is not None:
        check_sites(adapter, sites, where=str(folder))
    return AdapterPayload(adapter, fan_in_fan_out=bool(config.get("fan_in_fan_out", False)), head=head)


def _head(tensors: dict[str, Tensor], config: Mapping[str, Any], *, where: str) -> HeadWeights | None:
    """Return the head, taken out of the tensors; None where the configuration saves none."""
    saved = tuple(config.get("modules_to_save") or ())
    found = {
        module: (weight, tensors.pop(f"{_PREFIX}{module}.bias", None))
        for module in HEADS
        if (weight := tensors.pop(f"{_PREFIX}{module}.weight", None)) is not None
    }
    wanted = bool(saved) or config.get("task_type") == "SEQ_CLS"
    if not wanted and not found:
        return None
    if len(found) != 1 or not set(found) <= set(saved or HEADS):
        raise IncompatibleExpert(
            f"{where}: adapter_config.json (task_type {config.get('task_type')!r}, modules_to_save {list(saved)}) asks "
            f"for one head beside the adapter, the file holds {sorted(found) or 'none'}. Save both together."
        )
    ((module, (weight, bias)),) = found.items()
    if weight.dim() != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        shapes = [tuple(each.shape) for each in (weight, bias) if each is not None]
        raise CorruptExpert(f"{where}: the head {module!r} is no linear layer: {shapes}.")
    return HeadWeights(weight, bias, module)


def _pairs(tensors: Mapping[str, Tensor], *, where: str) -> dict[str, tuple[Tensor, Tensor]]:
    halves: dict[str, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        found = _KEY.fullmatch(key)
        if not found or not tensor.is_floating_point() or tensor.dim() != 2:
            raise IncompatibleExpert(
                f"{where}: tensor {key!r} ({tensor.dtype}, {tuple(tensor.shape)}) is no LoRA matrix of a linear layer."
            )
        halves.setdefault(found["path"], {})[found["half"]] = tensor
    lone = sorted(path for path, pair in halves.items() if len(pair) != 2)
    if lone or not halves:
        raise CorruptExpert(f"{where}: A and B must both be there for each layer; missing for {lone or 'all of them'}.")
    return {path: (pair["A"], pair["B"]) for path, pair in sorted(halves.items())}


def _weights(a: Tensor, b: Tensor, site: SiteScale, *, where: str) -> LoraWeights:
    if a.shape[0] != site.rank or b.shape[1] != site.rank:
        raise IncompatibleExpert(
            f"{where}: adapter_config.json says rank {site.rank}, the matrices are {tuple(a.shape)} "
            f"and {tuple(b.shape)}."
        )
    return LoraWeights(a, b, site.scale)
