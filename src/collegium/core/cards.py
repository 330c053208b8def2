"""Cards: what is known about an expert, a base, a run; plain JSON on disk, checked on the way in."""

import dataclasses
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from collegium.core.errors import CorruptExpert

CARD_VERSION = 1


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
    """Where text came from and under which licence."""

    name: str
    licence: str = "unknown"


@dataclass(frozen=True)
class ExpertCard:
    """What an expert is; written once, never changed.

    kind:        `lora` or `whole`.
    task:        what it is for; combinators take `language` by default.
    base:        fingerprint of the base it was made for; None = unverified (a PEFT folder from elsewhere).
    documents:   split name (`train`, `dev`) -> document hashes of its domain, used or not.
    tokens_seen: tokens of training, repetitions counted.
    recipe:      the resolved settings it was made with; `recipe_hash` is their sha256.
    parents:     names and payload checksums of the experts it was branched or merged from.
    payload:     file name -> sha256.
    """

    name: str
    kind: Literal["lora", "whole"]
    task: Literal["language", "reward", "classification"] = "language"
    base: Fingerprint | None = None
    domain: str | None = None
    sources: tuple[Source, ...] = ()
    documents: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    tokens_seen: int = 0
    trained_parameters: int = 0
    recipe: Mapping[str, Any] = field(default_factory=dict)
    recipe_hash: str = ""
    parents: Mapping[str, str] = field(default_factory=dict)
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


def expert_card_from_json(text: str, *, where: str) -> ExpertCard:
    """Return the card that `text` holds.

    Raises CorruptExpert when it is not JSON, lacks or adds fields, or has a field of the wrong type.
    """
    try:
        raw = json.loads(text)
    except json.JSONDecodeError as error:
        raise CorruptExpert(f"{where}: card.json is not JSON ({error}).") from error
    known = {each.name for each in dataclasses.fields(ExpertCard)}
    if not isinstance(raw, dict) or set(raw) - known or not {"name", "kind"} <= set(raw):
        odd = sorted(set(raw) - known) if isinstance(raw, dict) else type(raw).__name__
        raise CorruptExpert(f"{where}: card.json must hold name, kind and known fields only; found {odd}.")
    try:
        raw["base"] = Fingerprint(**raw["base"]) if raw.get("base") else None
        raw["sources"] = tuple(Source(**source) for source in raw.get("sources", ()))
        raw["documents"] = {split: tuple(hashes) for split, hashes in raw.get("documents", {}).items()}
        raw["warnings"] = tuple(raw.get("warnings", ()))
        return ExpertCard(**raw)
    except (TypeError, AttributeError) as error:
        raise CorruptExpert(f"{where}: card.json has a field of the wrong shape ({error}).") from error
