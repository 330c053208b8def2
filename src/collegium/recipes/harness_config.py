"""What `--model_args` of lm-evaluation-harness says about a model of ours; nothing here needs lm_eval itself."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

import torch

from collegium.core.config import replace_fields
from collegium.core.errors import ConfigError
from collegium.recipes.common import Common
from collegium.recipes.reference import Reference, parse_reference

AUTO_BATCH = 8
"""What `batch_size=auto` takes: texts of one forward."""
_NUMBERS = {
    "batch_size": 1,
    "max_length": 0,
    "max_gen_toks": 1,
    "context": 1,
    "seed": 0,
    "threads": 0,
    "top_k": 1,
    "prefix_token_id": 0,
}
"""Whole numbers and the least that each may be."""


@dataclass(frozen=True)
class HarnessConfig:
    """The model, and how it is asked.

    ref:             a model reference. Where it is a library, `experts` (joined by `+`, since commas separate
                     arguments), `router`, `compose` and `top_k` say what a question mark would.
    batch_size:      texts in one forward; `auto` takes 8.
    max_length:      the longest text that is read, 0 = what the base reads.
    max_gen_toks:    new tokens of a task that names no number.
    context:         of a text that is scored from its first token, how many tokens a coarse router reads first.
    prefix_token_id: what stands before such a text; None = the tokenizer's begin, or else end, of text.
    """

    ref: str = ""
    experts: str | tuple[str, ...] = ()
    router: str | None = None
    compose: str | None = None
    top_k: int | None = None
    batch_size: int = AUTO_BATCH
    max_length: int = 0
    max_gen_toks: int = 256
    context: int = 32
    prefix_token_id: int | None = None
    seed: int = 0
    device: str = "auto"
    dtype: str = "auto"
    threads: int = 0

    def __post_init__(self) -> None:
        """Report every impossible value at once."""
        _check({each.name: getattr(self, each.name) for each in fields(self)})

    @property
    def common(self) -> Common:
        """Seed and machine."""
        return Common(seed=self.seed, device=self.device, dtype=self.dtype, threads=self.threads)

    @property
    def reference(self) -> str:
        """The whole model reference.

        >>> HarnessConfig(ref="lib", experts=("law", "code"), compose="mix").reference
        'lib?experts=law,code&compose=mix'
        """
        parts = {"experts": self._names, "router": self.router, "compose": self.compose, "top_k": self.top_k}
        given = {key: value for key, value in parts.items() if value}
        if not given:
            return self.ref
        if any(mark in self.ref for mark in "?#") or self.ref.startswith("hf:"):
            raise ConfigError(
                f"model_args: {', '.join(given)} choose from a whole library, but ref={self.ref}. Give ref=LIB alone, "
                "or write all of it into ref."
            )
        # Read back, so that a mistake in a part is answered as in any reference.
        return str(parse_reference(str(Reference(library=self.ref, **given))))  # pyright: ignore[reportArgumentType]

    @property
    def _names(self) -> tuple[str, ...]:
        if isinstance(self.experts, str):
            return tuple(self.experts.split("+")) if self.experts else ()
        return tuple(self.experts)


def harness_config(arguments: Mapping[str, Any], general: Mapping[str, Any] | None = None) -> HarnessConfig:
    """Return what lm_eval hands over: `--model_args`, and its own `--batch_size`, `--max_batch_size` and `--device`.

    Where both name a thing, `--model_args` wins. Raises ConfigError for unknown keys and impossible values.

    >>> harness_config({"ref": "lib"}, {"batch_size": "auto", "device": "cpu"}).batch_size
    8
    """
    values = {**{key: value for key, value in (general or {}).items() if value is not None}, **arguments}
    most = values.pop("max_batch_size", None)
    if str(values.get("batch_size", "")).startswith("auto"):
        values["batch_size"] = AUTO_BATCH if most is None else min(AUTO_BATCH, int(most))
    if "device" in values and "device" not in arguments:
        values["device"] = _device(str(values["device"]))
    values.setdefault("ref", "")
    typed = {key: _typed(key, value) for key, value in values.items()}
    _check(typed)
    return replace_fields(_BLANK, typed, where="model_args")


def _check(values: Mapping[str, object]) -> None:
    """Raise ConfigError with everything that is impossible about these values."""
    wrong = [] if values["ref"] else ["ref names the model: ref=LIB, a base, or LIB#NAME."]
    wrong += [
        f"{name} is a whole number, at least {least}; got {values[name]!r}."
        for name, least in _NUMBERS.items()
        if values.get(name) is not None and not _is_number(values[name], least)
    ]
    if wrong:
        raise ConfigError("model_args: " + " ".join(wrong))


def _is_number(value: object, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def _typed(key: str, value: object) -> object:
    """Return a value as its field declares it: lm_eval reads a folder named 12 as a number, and `--batch_size` as text.

    >>> _typed("ref", 12), _typed("batch_size", "8"), _typed("experts", ["law"])
    ('12', 8, ('law',))
    """
    if key in ("ref", "device", "dtype"):
        return str(value)
    if key in _NUMBERS and isinstance(value, str) and value.isdecimal():
        return int(value)
    return tuple(value) if isinstance(value, list) else value


def _device(name: str) -> str:
    """Return our name of lm_eval's device: it hands over `cuda:0` on every machine unless told otherwise."""
    if name in {"cuda", "cuda:0"}:
        return "cuda" if torch.cuda.is_available() else "auto"
    return name


_BLANK = HarnessConfig(ref="?")
