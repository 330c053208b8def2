"""PEFT's adapter_config.json: written for our experts, read strictly from anybody's."""

import math
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from collegium.experts.payloads import AdapterPayload
from collegium.experts.peft_fields import are_names, check_fields, targeted

HONOURED = frozenset(
    {
        "r",
        "lora_alpha",
        "rank_pattern",
        "alpha_pattern",
        "use_rslora",
        "target_modules",
        "exclude_modules",
        "layers_to_transform",
        "layers_pattern",
        "fan_in_fan_out",
        "init_lora_weights",
        "modules_to_save",
    }
)
"""Fields that say what an adapter computes, and that Collegium computes likewise."""

WITHOUT_EFFECT = frozenset({"lora_dropout", "megatron_core", "qalora_group_size"})
"""Fields that say nothing about what a trained adapter computes (`megatron_core` and the group size need others)."""

DEFAULTS: Mapping[str, Any] = {"bias": "none"}
"""Defaults that are not None, False or empty; every other field must be one of these."""

HEADS = ("score", "classifier")
"""Modules that PEFT may save whole beside an adapter: the heads of transformers' sequence classification models."""
TASKS = ("CAUSAL_LM", "SEQ_CLS")

PLAIN_STARTS = (True, False, "gaussian", "orthogonal", None)
"""Values of init_lora_weights that leave the base as it was."""

_LARGEST_RANK = 2**31
"""Above any matrix; a number that nobody can hold is refused as such."""


@dataclass(frozen=True)
class SiteScale:
    """The rank and the scale of one module."""

    rank: int
    scale: float


def peft_config(payload: AdapterPayload) -> dict[str, Any]:
    """Return adapter_config.json of a payload: full module paths as targets, patterns where ranks or alphas differ."""
    ranks = {path: weights.rank for path, weights in payload.lora.items()}
    alphas = {path: _alpha(weights.scale, weights.rank) for path, weights in payload.lora.items()}
    rank, alpha = _commonest(ranks.values()), _commonest(alphas.values())
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if payload.head is None else "SEQ_CLS",
        "base_model_name_or_path": None,
        "r": rank,
        "lora_alpha": alpha,
        "rank_pattern": {_exactly(path): each for path, each in sorted(ranks.items()) if each != rank},
        "alpha_pattern": {_exactly(path): each for path, each in sorted(alphas.items()) if each != alpha},
        "target_modules": sorted(payload.adapter),
        "fan_in_fan_out": payload.fan_in_fan_out,
        "use_rslora": False,
        "lora_dropout": 0.0,
        "bias": "none",
        "init_lora_weights": True,
        "inference_mode": True,
        **({} if payload.head is None else {"modules_to_save": [payload.head.module]}),
    }


def check_peft_config(config: Mapping[str, Any], *, where: str) -> None:
    """Raise IncompatibleExpert, naming the fields, when a configuration asks for what Collegium does not compute."""
    problems = [*_other_starts(config), *_other_modules(config), *_wrong_types(config)]
    known = HONOURED | WITHOUT_EFFECT
    check_fields(config, kind="LORA", known=known, defaults=DEFAULTS, problems=problems, tasks=TASKS, where=where)


def site_scales(config: Mapping[str, Any], modules: Sequence[str], *, where: str) -> dict[str, SiteScale]:
    """Return module -> rank and scale of the modules that a checked configuration targets.

    scale = alpha / r, or alpha / sqrt(r) with use_rslora. Raises IncompatibleExpert when a pattern is not a regular
    expression or takes too long.
    """
    root = math.sqrt if config.get("use_rslora") else float
    found = targeted(config, modules, where=where)
    return {path: SiteScale(rank, alpha / root(rank)) for path, (rank, alpha) in found.items()}


def _other_starts(config: Mapping[str, Any]) -> list[str]:
    start = config.get("init_lora_weights", True)
    if start in PLAIN_STARTS:
        return []
    return [f"init_lora_weights = {start!r} (it changes the base; convert the adapter to plain LoRA with PEFT)"]


def _other_modules(config: Mapping[str, Any]) -> list[str]:
    saved = config.get("modules_to_save")
    if not saved or (isinstance(saved, list) and all(each in HEADS for each in saved)):
        return []
    return [f"modules_to_save = {saved!r} (only a head is kept whole: {' or '.join(HEADS)})"]


def _wrong_types(config: Mapping[str, Any]) -> list[str]:
    checks = {
        "r": _rank(config.get("r")),
        "lora_alpha": _number(config.get("lora_alpha")),
        "rank_pattern": _pattern_table(config.get("rank_pattern"), _rank),
        "alpha_pattern": _pattern_table(config.get("alpha_pattern"), _number),
        "use_rslora": isinstance(config.get("use_rslora", False), bool),
        "fan_in_fan_out": isinstance(config.get("fan_in_fan_out", False), bool),
        "target_modules": bool(config.get("target_modules")) and are_names(config["target_modules"]),
        "exclude_modules": config.get("exclude_modules") is None or are_names(config["exclude_modules"]),
        "layers_to_transform": _layers(config.get("layers_to_transform")),
        "layers_pattern": config.get("layers_pattern") is None or are_names(config["layers_pattern"]),
    }
    problems = [f"{field} = {config.get(field)!r}" for field, fits in checks.items() if not fits]
    if isinstance(config.get("target_modules"), str) and config.get("layers_to_transform") is not None:
        problems.append("layers_to_transform together with a pattern in target_modules")
    return problems


def _rank(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _LARGEST_RANK


def _number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _pattern_table(value: object, fits: Any) -> bool:  # noqa: ANN401 - a check of one value
    return value is None or (isinstance(value, dict) and all(fits(each) for each in value.values()))


def _layers(value: object) -> bool:
    indices = value if isinstance(value, list) else [value]
    return value is None or all(isinstance(index, int) and not isinstance(index, bool) for index in indices)


def _commonest(values: Any) -> Any:  # noqa: ANN401 - ranks or alphas
    counts = Counter(values)
    return min(counts, key=lambda value: (-counts[value], value))


def _exactly(path: str) -> str:
    return "^" + re.escape(path)


def _alpha(scale: float, rank: int) -> int | float:
    """Return the alpha with alpha / rank = scale, to the last bit where a float can say it."""
    product = scale * rank
    whole = round(product)
    if whole / rank == scale:
        return whole
    near = (product, math.nextafter(product, math.inf), math.nextafter(product, -math.inf))
    return next((alpha for alpha in near if alpha / rank == scale), product)
