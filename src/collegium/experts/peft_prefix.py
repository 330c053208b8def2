"""Prefixes in PEFT's form, and how they become ours: by turning keys.

PEFT puts the prefix into the cache, so that the text starts at position P (the prefix's length); ours starts at 0. With
rotary positions a query at i and a prefix key k score (R_{P+i} q) . k there and (R_i q) . k' here, which is the same
for every q when k' = R_{-P} k; at export k = R_P k'. Values carry no position. [li2021prefix, without its projection]
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import read_json, to_json
from collegium.core.errors import IncompatibleExpert
from collegium.core.files import write_new
from collegium.core.tensors import check_finite, read_tensors, tensor_bytes
from collegium.experts.payloads import AdapterPayload
from collegium.experts.peft_fields import CONFIG_FILE, TENSOR_FILE, check_fields
from collegium.experts.places import check_parts, check_sites
from collegium.models import Base, PrefixWeights
from collegium.models.rotary import turned

_NUMBERS = ("num_virtual_tokens", "num_layers", "num_attention_heads", "token_dim")
_KNOWN = frozenset(
    {*_NUMBERS, "num_transformer_submodules", "encoder_hidden_size", "init_weights", "prefix_projection"}
)
"""What is honoured; the encoder's size and its start say nothing about a prefix that was trained without projection."""
_TENSOR = "prompt_embeddings"


def write_peft_prefix(payload: AdapterPayload, folder: Path, base: Base) -> None:
    """Write PEFT's two files of a prefix on every layer of a base with rotary positions.

    Raises IncompatibleExpert, with the reason, for what PEFT cannot say.
    """
    paths = _layers(base)
    check_sites(payload.adapter, base.sites, where="the prefix")
    parts = {path: part for path, part in payload.adapter.items() if isinstance(part, PrefixWeights)}
    lengths = {part.keys.shape[1] for part in parts.values()}
    if sorted(parts) != sorted(paths) or len(lengths) != 1:
        raise IncompatibleExpert(
            f"PEFT keeps prefixes of one length on all {len(paths)} layers; this one has lengths {sorted(lengths)} on "
            f"{len(parts)} layers. Train it with --layers all."
        )
    (length,) = lengths
    keys = turned(base, {block: parts[path].keys for block, path in enumerate(paths)}, by=length)
    columns = [_flat(each) for block, path in enumerate(paths) for each in (keys[block], parts[path].values)]
    tensors = {_TENSOR: torch.cat(columns, dim=1)}
    check_finite(tensors, where="the new expert")
    heads, size = base.sites[paths[0]].shape
    config = {
        "peft_type": "PREFIX_TUNING",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": None,
        "num_virtual_tokens": length,
        "num_layers": len(paths),
        "num_attention_heads": heads,
        "token_dim": heads * size,
        "num_transformer_submodules": 1,
        "encoder_hidden_size": heads * size,
        "prefix_projection": False,
        "inference_mode": True,
    }
    write_new(folder / CONFIG_FILE, to_json(config).encode())
    write_new(folder / TENSOR_FILE, tensor_bytes(tensors))


def read_peft_prefix(folder: Path, base: Base) -> AdapterPayload:
    """Return the prefix in a PEFT folder for a base with rotary positions.

    Raises IncompatibleExpert, naming the field or the reason, for what Collegium does not compute.
    """
    where, config = str(folder), read_json(folder / CONFIG_FILE)
    check_fields(config, kind="PREFIX_TUNING", known=_KNOWN, defaults={}, problems=_problems(config), where=where)
    paths = _layers(base)
    if config["num_layers"] != len(paths):
        raise IncompatibleExpert(f"{where}: num_layers = {config['num_layers']}, this base has {len(paths)} layers.")
    numbers = _numbers(read_tensors(folder / TENSOR_FILE), config, where=where)
    length, heads = config["num_virtual_tokens"], config["num_attention_heads"]
    by_layer = numbers.view(length, len(paths), 2, heads, -1).permute(1, 2, 3, 0, 4)
    adapter = {path: PrefixWeights(*pair.contiguous().unbind()) for path, pair in zip(paths, by_layer, strict=True)}
    check_parts(adapter, where=where)
    check_sites(adapter, base.sites, where=where)
    keys = turned(base, {block: adapter[path].keys.to(base.device) for block, path in enumerate(paths)}, by=-length)
    return AdapterPayload(
        {path: PrefixWeights(keys[block].cpu(), adapter[path].values) for block, path in enumerate(paths)}
    )


def _layers(base: Base) -> list[str]:
    """Return the path of each block's attention; raises IncompatibleExpert where PEFT's prefix is another thing."""
    found = {site.block: path for path, site in base.sites.items() if site.what == "attention"}
    if sorted(found) != list(range(len(base.blocks))):
        raise IncompatibleExpert(
            f"PEFT keeps a prefix for every layer; {base.name} has attention layers in blocks {sorted(found)} alone."
        )
    if _slides(base.config):
        raise IncompatibleExpert(
            f"attention in {base.name} slides over a window, which PEFT's prefix leaves when the text grows and ours "
            "never does: the two are not the same, so a prefix is neither read from PEFT nor written for it."
        )
    return [found[block] for block in sorted(found)]


def _slides(config: Any) -> bool:  # noqa: ANN401 - a transformers configuration
    kinds = getattr(config, "layer_types", None)
    if kinds is not None:
        return any(kind != "full_attention" for kind in kinds)
    return getattr(config, "sliding_window", None) is not None and getattr(config, "use_sliding_window", True)


def _flat(each: Tensor) -> Tensor:
    """Return keys or values as PEFT lays them out: a row for each position, its heads one after the other."""
    return each.detach().cpu().float().transpose(0, 1).flatten(1)


def _numbers(tensors: Mapping[str, Tensor], config: Mapping[str, Any], *, where: str) -> Tensor:
    want = (config["num_virtual_tokens"], config["num_layers"] * 2 * config["token_dim"])
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != {_TENSOR: want} or not tensors[_TENSOR].is_floating_point():
        raise IncompatibleExpert(f"{where}: the file must hold {_TENSOR!r} of shape {want} alone, it holds {found}.")
    return tensors[_TENSOR]


def _problems(config: Mapping[str, Any]) -> list[str]:
    odd = [name for name in _NUMBERS if type(config.get(name)) is not int or config[name] < 1]
    problems = [f"{name} = {config.get(name)!r}" for name in odd]
    if not odd and config["token_dim"] % config["num_attention_heads"]:
        problems.append(f"token_dim = {config['token_dim']!r} for {config['num_attention_heads']} heads")
    if config.get("num_transformer_submodules") not in (None, 1):
        problems.append(f"num_transformer_submodules = {config['num_transformer_submodules']!r}")
    if config.get("prefix_projection") not in (None, False):
        problems.append(f"prefix_projection = {config['prefix_projection']!r} (save it as a plain prefix with PEFT)")
    return problems
