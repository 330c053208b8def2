"""Adapters of PEFT's other kinds, turned into LoRA by PEFT's own conversion: approximately, and the card says how far.

PEFT knows the change D of each weight matrix of such an adapter and gives the best B A of a rank, by singular values.
What it measures here: error = sqrt(sum |D - B A|^2 / sum |D|^2) over all layers, in the Frobenius norm.
"""

import dataclasses
import inspect
import math
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import ExpertCard, content_hash, read_json
from collegium.core.errors import ConfigError, CorruptExpert, IncompatibleExpert, ResourceError
from collegium.core.names import check_name
from collegium.core.tensors import read_shapes, read_tensors
from collegium.experts.folder import refuse_pickles
from collegium.experts.lora_files import CONFIG_FILE, TENSOR_FILE
from collegium.experts.patterns import is_plain, resolve
from collegium.experts.payloads import Expert, adapter_payload
from collegium.experts.peft_folder import UNVERIFIED, own_name
from collegium.models import Base, LoraWeights

READ_DIRECTLY = ("LORA", "IA3", "PREFIX_TUNING")
"""Kinds that are experts as they are."""

_ADAPTER = "default"
_LARGEST_RANK = 65_536


@dataclass(frozen=True)
class Converted:
    """What PEFT made of an adapter: the low-rank changes, and how far they are from its own.

    error: relative, over all layers. worst: the layer with the largest relative error, and that error.
    """

    adapter: dict[str, LoraWeights]
    error: float
    worst: tuple[str, float]


def foreign_kind(folder: Path) -> str | None:
    """Return the kind of a PEFT folder that has to be converted, None for one that is read as it is."""
    kind = read_json(folder / CONFIG_FILE).get("peft_type")
    return None if kind in READ_DIRECTLY or not isinstance(kind, str) else kind


def convert_peft(folder: Path, base: Base, *, rank: int, name: str | None = None) -> Expert:
    """Return the LoRA expert of a rank that comes nearest to an adapter of another PEFT kind.

    name: default = the folder's. The base stays as it is.

    Raises ConfigError for a rank that no layer has, IncompatibleExpert, naming kind or field, for what PEFT cannot
    convert or does not fit the base, ResourceError when PEFT is not installed.
    """
    name = check_name(own_name(folder) if name is None else name)
    refuse_pickles(folder)
    config = read_json(folder / CONFIG_FILE)
    kind = str(config.get("peft_type"))
    if kind in READ_DIRECTLY:
        raise ConfigError(f"{folder} is of type {kind!r}, which is read as it is; leave out --convert-rank.")
    if rank < 1:
        raise ConfigError(f"--convert-rank is at least 1, got {rank}.")
    found = _converted(folder, config, base, rank)
    recipe = {
        "method": "peft conversion",
        "peft_type": kind,
        "adapter_config": config,
        "rank": rank,
        "relative_error": found.error,
        "worst_layer": found.worst[0],
        "worst_relative_error": found.worst[1],
    }
    payload = adapter_payload(base, found.adapter)
    said = f"converted from {kind} to LoRA of rank {rank}: its changes are off by {found.error:.2%} (Frobenius norm)"
    card = ExpertCard(
        name=name,
        kind="lora",
        trained_parameters=payload.parameters,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        warnings=(said, UNVERIFIED),
    )
    return Expert(card, payload)


def _converted(folder: Path, config: Mapping[str, Any], base: Base, rank: int) -> Converted:
    """Load an adapter with PEFT on a copy of the model that shares its weights, and convert it there."""
    peft = _peft()
    sites = base.linear_sites()
    settings = _settings(peft, folder, config, sites)
    small = min((min(sites[path]), path) for path in settings.target_modules)
    if rank > small[0]:
        raise ConfigError(f"--convert-rank is at most {small[0]}, the smaller side of {small[1]!r}; got {rank}.")
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]), torch.no_grad():
        warnings.simplefilter("ignore")
        model = _loaded(peft, base, folder, settings)
        _check_complete(peft, model, folder)
        try:
            _, state = peft.convert_to_lora(model, rank=rank, adapter_name=_ADAPTER)
        except TypeError as error:
            raise IncompatibleExpert(
                f"{folder}: PEFT {peft.__version__} cannot convert adapters of type {settings.peft_type.value!r} to "
                "LoRA; it converts those whose change of a matrix is a sum, such as LOHA, LOKR and VERA. Train the "
                "expert as LoRA."
            ) from error
        except ValueError as error:
            raise IncompatibleExpert(f"{folder}: PEFT cannot convert this adapter: {error}") from error
        return _measured(model, _weights(state), folder)


def _peft() -> Any:  # noqa: ANN401 - a module without types
    try:
        import peft
    except ImportError as error:
        raise ResourceError("converting an adapter needs the package peft: pip install 'collegium[peft]'.") from error
    if not hasattr(peft, "convert_to_lora"):
        raise ResourceError(
            f"PEFT {peft.__version__} cannot convert adapters to LoRA; a newer one can: pip install --upgrade peft."
        )
    return peft


def _settings(peft: Any, folder: Path, config: Mapping[str, Any], sites: Mapping[str, object]) -> Any:  # noqa: ANN401
    """Return PEFT's configuration of a folder, its patterns resolved to paths by rules with a time limit.

    Raises IncompatibleExpert, naming it, for a kind or field that this PEFT does not know, or for what is kept whole.
    """
    kinds = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING
    kind = config.get("peft_type")
    known = {each.value: found for each, found in kinds.items()}
    if kind not in known or "target_modules" not in {each.name for each in dataclasses.fields(known[kind])}:
        raise IncompatibleExpert(
            f"{folder}: adapters of type {kind!r} change no weight matrices that PEFT {peft.__version__} knows, so "
            "they cannot be converted to LoRA."
        )
    _check_fields(folder, config, {each.name for each in dataclasses.fields(known[kind])})
    given = {key: value for key, value in config.items() if key not in _RESOLVED}
    try:
        targets = sorted(
            resolve({**config, "r": 1, "lora_alpha": 1, "rank_pattern": {}, "alpha_pattern": {}}, [*sites])
        )
    except (TimeoutError, re.error, ValueError, TypeError) as error:
        raise IncompatibleExpert(f"{folder}: which layers target_modules means cannot be found out: {error}") from error
    if not targets:
        raise IncompatibleExpert(f"{folder}: no linear layer of this base is targeted; it was made for another base.")
    try:
        return peft.PeftConfig.from_peft_type(**{**given, "target_modules": targets, "inference_mode": True})
    except (TypeError, ValueError) as error:
        raise IncompatibleExpert(f"{folder}: PEFT cannot read adapter_config.json: {error}") from error


_RESOLVED = frozenset({"exclude_modules", "layers_to_transform", "layers_pattern", "auto_mapping", "runtime_config"})
"""Fields that go into the list of targets, or that nothing here may follow."""


def _check_fields(folder: Path, config: Mapping[str, Any], known: set[str]) -> None:
    asked = {key for key, value in config.items() if value not in (None, False, {}, [])}
    odd = sorted(asked - known - _RESOLVED)
    problems = [f"{key} = {config[key]!r}, which it does not know" for key in odd]
    if config.get("modules_to_save"):
        problems.append(f"modules_to_save = {config['modules_to_save']!r}, which is no change of low rank")
    for key, value in config.items():
        if key.endswith("_pattern") and isinstance(value, dict) and not all(map(is_plain, value)):
            problems.append(f"{key} with regular expressions, which are not followed; write plain module paths")
    rank = config.get("r")
    if isinstance(rank, int) and rank > _LARGEST_RANK:
        problems.append(f"r = {config['r']!r}, a rank that no matrix has")
    if problems:
        raise IncompatibleExpert(f"{folder}: adapter_config.json asks for " + "; ".join(problems))


def _loaded(peft: Any, base: Base, folder: Path, settings: Any) -> Any:  # noqa: ANN401 - PEFT has no types
    """Return a PEFT model on a copy of the base that shares the base's tensors."""
    read_tensors(folder / TENSOR_FILE)
    try:
        return peft.PeftModel.from_pretrained(base.folded({}).model, str(folder), _ADAPTER, config=settings).eval()
    except Exception as error:  # loaders raise anything
        raise IncompatibleExpert(
            f"{folder}: PEFT cannot load this adapter on {base.name}: {' '.join(str(error).split())[:300]}"
        ) from error


def _check_complete(peft: Any, model: Any, folder: Path) -> None:  # noqa: ANN401 - PEFT has no types
    """Raise IncompatibleExpert unless the file holds exactly the tensors that the configuration asks for."""
    wanted = set(peft.get_peft_model_state_dict(model, adapter_name=_ADAPTER))
    odd = sorted(wanted ^ set(read_shapes(folder / TENSOR_FILE)))
    if odd:
        raise IncompatibleExpert(
            f"{folder}: configuration, weights and base do not agree on {odd[0]!r} and {len(odd) - 1} more tensors; "
            "the adapter was made for another base, or is not whole."
        )


def _weights(state: Mapping[str, Tensor]) -> dict[str, LoraWeights]:
    """Return the low-rank changes in PEFT's converted weights, whose scale is one."""
    ends = ("base_model.model.", ".lora_A.weight")
    paths = [key.removeprefix(ends[0]).removesuffix(ends[1]) for key in sorted(state) if key.endswith(ends[1])]
    halves = {path: [state[f"{ends[0]}{path}.lora_{half}.weight"].float().clone() for half in "AB"] for path in paths}
    return {path: LoraWeights(a, b) for path, (a, b) in halves.items()}


def _measured(model: Any, adapter: Mapping[str, LoraWeights], folder: Path) -> Converted:  # noqa: ANN401
    """Return the changes with their distance from those of the adapter itself."""
    missed, whole, worst = 0.0, 0.0, ("", -1.0)
    for path, part in adapter.items():
        site = model.base_model.model.get_submodule(path)
        delta = _delta(site)
        off, size = float((delta - part.delta()).square().sum()), float(delta.square().sum())
        missed, whole = missed + off, whole + size
        worst = max(worst, (path, math.sqrt(off / size) if size else 0.0), key=lambda pair: pair[1])
    if not math.isfinite(missed + whole):
        raise CorruptExpert(f"{folder}: the converted changes are not finite; the adapter is damaged.")
    return Converted(dict(adapter), math.sqrt(missed / whole) if whole else 0.0, worst)


def _delta(site: Any) -> Tensor:  # noqa: ANN401 - PEFT has no types
    """Return what an adapted layer adds to its matrix, [output, input]; MiSS does not say, so each input is asked."""
    if len(inspect.signature(site.get_delta_weight).parameters) == 1:
        delta = site.get_delta_weight(_ADAPTER).float()
        return delta.T if type(site.get_base_layer()).__name__ == "Conv1D" else delta
    weight = site.get_base_layer().weight
    each_input = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
    return (site(each_input) - site.get_base_layer()(each_input)).float().T
