"""Cards: what is known about an expert, a base, a run; plain JSON on disk, checked on the way in."""

import dataclasses
import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

from collegium.core.errors import CorruptExpert, NewerFormat

CARD_VERSION = 1
_DIGITS_SHOWN = 24


Kind = Literal["lora", "ia3", "bottleneck", "ffn", "prefix", "mta", "whole"]
"""What an expert can be."""


@dataclass(frozen=True)
class Fingerprint:
    """sha256 of a base's configuration, tokenizer and stored weights; `none` for a base without tokenizer."""

    config: str
    tokenizer: str
    weights: str

    @property
    def short(self) -> str:
        """Twelve characters that name the base in messages."""
        return hashlib.sha256(f"{self.config}{self.tokenizer}{self.weights}".encode()).hexdigest()[:12]


@dataclass(frozen=True)
class Source:
    """Where text came from, under which licence, and the sha256 of what was fetched."""

    name: str
    licence: str = "unknown"
    digest: str = ""


@dataclass(frozen=True)
class ExpertCard:
    """What an expert is; written once, never changed.

    kind:        a kind of adapter (`lora`, `ia3`, `bottleneck`, `ffn`, `prefix`), `mta` (adapters of several tasks with
                 their gates), or `whole`.
    task:        what it is for; combinators take `language` by default.
    base:        fingerprint of the base it was made for; None = unverified (a PEFT folder from elsewhere).
    documents:   split name (`train`, `dev`) -> document hashes of its domain, used or not.
    tokens_seen: tokens of training, repetitions counted.
    recipe:      the resolved settings it was made with; `recipe_hash` is their sha256.
    constants:   what belongs to the weights and is no weight: how a judge pools a text and cuts it, its domain's mean
                 and deviation.
    parents:     names and payload checksums of the experts it was branched or merged from.
    context:     what it is a change of, where that is not the bare base: `experts`, with their weights, or the
                 `reference` of a composition. It says nothing sensible without.
    payload:     file name -> sha256.
    """

    name: str
    kind: Kind
    task: Literal["language", "reward", "classification"] = "language"
    base: Fingerprint | None = None
    domain: str | None = None
    sources: tuple[Source, ...] = ()
    documents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens_seen: int = 0
    trained_parameters: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    constants: Mapping[str, Any] = field(default_factory=dict)
    parents: Mapping[str, str] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)
    payload: Mapping[str, str] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    created: str = ""
    version: int = CARD_VERSION


def to_json(value: Any) -> str:  # noqa: ANN401 - any dataclass or plain value
    """Return canonical JSON: sorted keys, two spaces, one final line break."""
    plain = dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value
    return json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def content_hash(value: Any) -> str:  # noqa: ANN401 - any dataclass or plain value
    """Return the sha256 of a value's canonical JSON.

    >>> content_hash({"b": 1, "a": 2}) == content_hash({"a": 2, "b": 1})
    True
    """
    return hashlib.sha256(to_json(value).encode()).hexdigest()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file; raises CorruptExpert when it is missing or holds anything else."""
    try:
        return json_object(path.read_text(encoding="utf-8"), where=str(path))
    except FileNotFoundError as error:
        raise CorruptExpert(f"{path} is missing.") from error
    except UnicodeDecodeError as error:
        raise CorruptExpert(f"{path} is not UTF-8 text ({error}).") from error


def json_object(text: str, *, where: str) -> dict[str, Any]:
    """Return the object that JSON text holds.

    Raises CorruptExpert for anything else, and for what could not be kept: a number that is not finite or takes more
    than 64 bits, and half a surrogate pair, which is no character.
    """
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite, parse_int=_whole)
        (json.dumps(value, ensure_ascii=False) if "\\u" in text else text).encode()
    except (ValueError, RecursionError) as error:
        raise CorruptExpert(f"{where} is not JSON ({error}).") from error
    if not isinstance(value, dict):
        raise CorruptExpert(f"{where} must hold a JSON object, it holds a {type(value).__name__}.")
    return value


def expert_card_from_json(text: str, *, where: str) -> ExpertCard:
    """Return the card that `text` holds.

    Raises CorruptExpert when it is not JSON, lacks or adds fields, or has a field of the wrong type; NewerFormat when
    a later version wrote it.
    """
    raw = json_object(text, where=f"{where}: card.json")
    version = raw.get("version")
    if isinstance(version, int) and version > CARD_VERSION:
        raise NewerFormat(
            f"{where}: card.json has version {version}, this Collegium reads up to {CARD_VERSION}; update Collegium."
        )
    known = {each.name for each in dataclasses.fields(ExpertCard)}
    odd = sorted(set(raw) - known)
    if odd or not {"name", "kind"} <= set(raw):
        raise CorruptExpert(f"{where}: card.json must hold name, kind and known fields only; unknown: {odd}.")
    problems = [field for field, fits in _CARD_FIELDS.items() if field in raw and not fits(raw[field])]
    if problems:
        shown = {field: raw[field] for field in problems}
        raise CorruptExpert(f"{where}: card.json has fields of the wrong type or value: {shown}.")
    raw["base"] = Fingerprint(**raw["base"]) if raw.get("base") else None
    raw["sources"] = tuple(Source(**source) for source in raw.get("sources", ()))
    raw["documents"] = {split: tuple(hashes) for split, hashes in raw.get("documents", {}).items()}
    raw["warnings"] = tuple(raw.get("warnings", ()))
    return ExpertCard(**raw)


def _refuse_constant(constant: str) -> Any:  # noqa: ANN401 - never returns
    raise ValueError(f"{constant} is not a JSON number")


def _finite(digits: str) -> float:
    value = float(digits)
    if not math.isfinite(value):
        raise ValueError(f"{_short(digits)} is larger than any number kept")
    return value


def _whole(digits: str) -> int:
    value = int(digits)
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{_short(digits)} takes more than 64 bits")
    return value


def _short(digits: str) -> str:
    return digits if len(digits) <= _DIGITS_SHOWN else f"{digits[:_DIGITS_SHOWN]}..."


def _texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(each, str) for each in value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _table(value: object) -> bool:
    return isinstance(value, dict)


def _text_table(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(each, str) for each in value.values())


def _record(value: object, kind: type, *required: str) -> bool:
    known = {each.name for each in dataclasses.fields(kind)}
    return isinstance(value, dict) and _text_table(value) and set(required) <= set(value) <= known


def _payload(value: object) -> bool:
    return isinstance(value, dict) and all(
        _PLAIN_FILE.fullmatch(name) and isinstance(each, str) and _SHA256.fullmatch(each)
        for name, each in value.items()
    )


def _context(value: object) -> bool:
    if not isinstance(value, dict) or len(value) > 1 or set(value) - {"experts", "reference"}:
        return False
    weights = value.get("experts", {})
    numbers = isinstance(weights, dict) and all(type(each) in (int, float) for each in weights.values())
    return numbers and isinstance(value.get("reference", ""), str)


_PLAIN_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_CARD_FIELDS: Mapping[str, Callable[[object], object]] = {
    "name": lambda value: isinstance(value, str),
    "kind": lambda value: value in get_args(Kind),
    "task": lambda value: value in ("language", "reward", "classification"),
    "base": lambda value: value is None or _record(value, Fingerprint, "config", "tokenizer", "weights"),
    "domain": lambda value: value is None or isinstance(value, str),
    "sources": lambda value: isinstance(value, list) and all(_record(each, Source, "name") for each in value),
    "documents": lambda value: isinstance(value, dict) and all(map(_texts, value.values())),
    "tokens_seen": _count,
    "trained_parameters": _count,
    "recipe": _table,
    "recipe_hash": lambda value: isinstance(value, str),
    "constants": _table,
    "parents": _text_table,
    "context": _context,
    "payload": _payload,
    "warnings": _texts,
    "created": lambda value: isinstance(value, str),
    "version": _count,
}
"""What each field of a card may hold: a card comes from anywhere, so every field is checked."""
