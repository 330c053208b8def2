"""collegium.json: which format, which base, and what the library does by default."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.core.cards import Fingerprint, read_json, to_json
from collegium.core.errors import CorruptExpert, LibraryError, NewerFormat
from collegium.core.files import write_text

MANIFEST_FILE = "collegium.json"
FORMAT = 1


@dataclass(frozen=True)
class Defaults:
    """How a library is composed when nothing else is asked for; None = Collegium's own default."""

    router: str | None = None
    composition: str | None = None
    top_k: int | None = None


@dataclass(frozen=True)
class Manifest:
    """What collegium.json holds.

    base_reference: what `load_base` was given for the base, for those who open the library without one.
    """

    base: Fingerprint
    base_reference: str
    defaults: Defaults = Defaults()
    format: int = FORMAT


def read_manifest(root: Path) -> Manifest:
    """Return what collegium.json holds; raises NewerFormat, or LibraryError when it is damaged or missing."""
    path = root / MANIFEST_FILE
    try:
        raw = read_json(path)
        return _checked(raw, path)
    except CorruptExpert as error:
        raise LibraryError(f"{error} {root} is no library, or its {MANIFEST_FILE} is damaged.") from error
    except (TypeError, KeyError) as error:
        raise LibraryError(f"{path} has missing, unknown or misshapen fields ({error}).") from error


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write collegium.json, whole or not at all."""
    write_text(root / MANIFEST_FILE, to_json(manifest))


def _checked(raw: dict[str, Any], path: Path) -> Manifest:
    found = raw.get("format")
    if not isinstance(found, int) or found < 1:
        raise LibraryError(f"{path} states no format version; it is no library of Collegium's.")
    if found > FORMAT:
        raise NewerFormat(
            f"{path} has format {found}, this Collegium reads up to {FORMAT}. Update Collegium to open this library; "
            "nothing was changed."
        )
    base = Fingerprint(**raw["base"])
    defaults = Defaults(**raw["defaults"])
    texts = (*dataclasses.astuple(base), raw["base_reference"])
    if not all(isinstance(text, str) for text in texts) or set(raw) != {"format", "base", "base_reference", "defaults"}:
        raise LibraryError(f"{path} has missing, unknown or misshapen fields: {sorted(raw)}.")
    return Manifest(base, raw["base_reference"], defaults, found)
