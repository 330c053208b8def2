"""PEFT's rules for which module gets which rank, with a time limit: the patterns come from strangers' files.

This file imports nothing of ours, because it also runs by its path as a child process that can be ended: a regular
expression that backtracks for hours cannot be stopped any other way.
"""

import json
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

TIME_LIMIT_SECONDS = 5.0
_PLAIN = re.compile(r"\^?[\w\-./\\]*\$?")


def resolve(config: Mapping[str, Any], modules: Sequence[str]) -> dict[str, tuple[int, float]]:
    """Return module -> (rank, alpha) of those modules that a PEFT configuration targets, in the order given.

    Raises TimeoutError when its patterns take too long, re.error when one is not a regular expression.
    """
    if all(map(is_plain, _patterns(config))):
        return match(config, modules)
    asked = json.dumps({"config": {key: config.get(key) for key in _FIELDS}, "modules": list(modules)})
    try:
        answer = subprocess.run(
            [sys.executable, "-I", "-S", __file__],
            input=asked.encode(),
            capture_output=True,
            timeout=TIME_LIMIT_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise TimeoutError(f"the patterns took more than {TIME_LIMIT_SECONDS:g} s") from error
    if answer.returncode != 0:
        raise re.error(answer.stderr.decode(errors="replace").strip().splitlines()[-1])
    return {module: (rank, alpha) for module, rank, alpha in json.loads(answer.stdout)}


def is_plain(pattern: str) -> bool:
    """Return whether a pattern is little more than a path, so that following it takes no time."""
    return bool(_PLAIN.fullmatch(pattern))


def match(config: Mapping[str, Any], modules: Iterable[str]) -> dict[str, tuple[int, float]]:
    """Return module -> (rank, alpha) by PEFT's rules, without a time limit."""
    ranks, alphas = config.get("rank_pattern") or {}, config.get("alpha_pattern") or {}
    return {
        module: (
            ranks.get(_pattern_key(ranks, module), config["r"]),
            float(alphas.get(_pattern_key(alphas, module), config["lora_alpha"])),
        )
        for module in modules
        if _targeted(config, module)
    }


_FIELDS = (
    "r",
    "lora_alpha",
    "rank_pattern",
    "alpha_pattern",
    "target_modules",
    "exclude_modules",
    "layers_to_transform",
    "layers_pattern",
)


def _patterns(config: Mapping[str, Any]) -> list[str]:
    lone = [config.get(key) for key in ("target_modules", "exclude_modules")]
    layers = config.get("layers_pattern") or []
    return [
        *(pattern for pattern in lone if isinstance(pattern, str)),
        *([layers] if isinstance(layers, str) else layers),
        *(config.get("rank_pattern") or {}),
        *(config.get("alpha_pattern") or {}),
    ]


def _pattern_key(patterns: Iterable[str], module: str) -> str:
    """Return the first key that matches the end of a module path (peft.utils.other.get_pattern_key)."""
    return next((key for key in patterns if re.match(rf"(.*\.)?({key})$", module)), module)


def _targeted(config: Mapping[str, Any], module: str) -> bool:
    """Whether PEFT puts an adapter on a module (peft.tuners.tuners_utils.check_target_module_exists)."""
    excluded, targets = config.get("exclude_modules"), config["target_modules"]
    if excluded and _named(excluded, module):
        return False
    if targets == "all-linear":
        return True
    if isinstance(targets, str) or module in targets:
        return _named(targets, module)
    return _named(targets, module) and _in_layers(config, module)


def _named(names: str | Sequence[str], module: str) -> bool:
    if isinstance(names, str):
        return bool(re.fullmatch(names, module))
    return any(module == name or module.endswith(f".{name}") for name in names)


def _in_layers(config: Mapping[str, Any], module: str) -> bool:
    layers = config.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = config.get("layers_pattern") or [r"[^.]*"]
    for pattern in [patterns] if isinstance(patterns, str) else patterns:
        # The lazy prefix finds the first number: a mixture-of-experts path has a second one.
        prefix = r".*?\." if pattern == r"[^.]*" else r"(?:^|.*?\.)"
        found = re.match(rf"{prefix}{pattern}\.(?P<index>\d+)\.", module)
        if found:
            return int(found["index"]) in ([layers] if isinstance(layers, int) else layers)
    return False


if __name__ == "__main__":
    asked = json.load(sys.stdin)
    found = match(asked["config"], asked["modules"])
    json.dump([[module, rank, alpha] for module, (rank, alpha) in found.items()], sys.stdout)
