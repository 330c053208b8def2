"""What every kind of PEFT folder has alike: fields that are honoured or refused by name, and targets."""

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from collegium.core.errors import IncompatibleExpert
from collegium.experts.patterns import resolve
from collegium.experts.places import Sites

CONFIG_FILE = "adapter_config.json"
TENSOR_FILE = "adapter_model.safetensors"
FILES = frozenset({CONFIG_FILE, TENSOR_FILE})

WITHOUT_EFFECT = frozenset(
    {"auto_mapping", "base_model_name_or_path", "inference_mode", "peft_version", "revision", "runtime_config"}
)
"""Fields of all kinds that say nothing about what a trained adapter computes."""


def check_fields(
    config: Mapping[str, Any],
    *,
    kind: str,
    known: Collection[str],
    defaults: Mapping[str, Any],
    problems: Sequence[str],
    tasks: Sequence[str] = ("CAUSAL_LM",),
    where: str,
) -> None:
    """Raise IncompatibleExpert, naming the fields, when a configuration asks for what Collegium does not compute.

    known: what is honoured or has no effect; every other field must be None, False, empty or its default.
    problems: what else is wrong with its fields. tasks: values of task_type that are followed.
    """
    if config.get("peft_type") != kind:
        raise IncompatibleExpert(f"{where}: peft_type {config.get('peft_type')!r} is not {kind!r}.")
    odd = [
        f"{field} = {value!r}"
        for field, value in sorted(config.items())
        if field not in {*known, *WITHOUT_EFFECT, "peft_type", "task_type"}
        and value != defaults.get(field)
        and not (value is None or value is False or value in ({}, []))
    ]
    task = config.get("task_type")
    if task is not None and task not in tasks:
        odd.append(f"task_type = {task!r} (it may be {' or '.join(tasks)})")
    if odd or problems:
        raise IncompatibleExpert(
            f"{where}: adapter_config.json asks for what Collegium does not do: " + "; ".join([*odd, *problems])
        )


def targeted(config: Mapping[str, Any], modules: Sequence[str], *, where: str) -> dict[str, tuple[int, float]]:
    """Return module -> (rank, alpha) of the modules that a checked configuration targets.

    Raises IncompatibleExpert when a pattern is not a regular expression or takes too long.
    """
    try:
        return resolve({"r": 0, "lora_alpha": 0.0, **config}, modules)
    except TimeoutError as error:
        raise IncompatibleExpert(
            f"{where}: {error}; a regular expression in adapter_config.json is hostile."
        ) from error
    except re.error as error:
        raise IncompatibleExpert(f"{where}: adapter_config.json has a broken regular expression: {error}.") from error


def check_targets(held: Collection[str], wanted: Collection[str], sites: Sites | None, *, where: str) -> None:
    """Raise IncompatibleExpert when weights are held for other modules than the configuration targets."""
    stray = sorted(set(held) - set(wanted))
    if stray:
        raise IncompatibleExpert(
            f"{where}: the file holds weights for {stray[0]!r} and {len(stray) - 1} more, which adapter_config.json "
            "does not target."
        )
    lacking = sorted(set(wanted) - set(held))
    if lacking and sites is not None:
        raise IncompatibleExpert(
            f"{where}: adapter_config.json targets {lacking[0]!r} and {len(lacking) - 1} more layers of this base, for "
            "which the file holds no weights; it was made for another base."
        )


def linear_paths(sites: Sites | None) -> list[str]:
    """Return the paths of the linear layers among a base's sites; none where they are not known."""
    return [path for path, site in (sites or {}).items() if site.what == "linear"]


def are_names(value: object) -> bool:
    """Return whether a value is a pattern or a list of names."""
    return isinstance(value, str) or (isinstance(value, list) and all(isinstance(name, str) for name in value))
