"""collegium.json: which format, which base, and what the library does by default."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.core.cards import Fingerprint, read_json, to_json
from collegium.core.errors import ConfigError, CorruptExpert, LibraryError, NewerFormat
from collegium.core.files import STAGING_PREFIX, write_text

MANIFEST_FILE = "collegium.json"
LOCK_FILE = ".lock"
FORMAT = 1


@dataclass(frozen=True)
class Defaults:
    """How a library is composed when nothing else is asked for; None = Collegium's own default.

    Raises ConfigError for values of the wrong kind.
    """

    router: str | None = None
    composition: str | None = None
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check the kinds: a file from anywhere may hold anything."""
        texts = all(each is None or isinstance(each, str) for each in (self.router, self.composition))
        count = self.top_k is None or (type(self.top_k) is int and self.top_k >= 1)
        if not texts or not count:
            raise ConfigError(
                "a library's default router and composition are names, its top_k a whole number of experts, at least "
                f"1; got {dataclasses.astuple(self)}."
            )


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
    except ConfigError as error:
        raise LibraryError(f"{path}: {error}") from error
    except (TypeError, KeyError) as error:
        raise LibraryError(f"{path} has missing, unknown or misshapen fields ({error}).") from error


def check_place(root: Path) -> None:
    """Raise LibraryError when there is something that is no library where one is to be."""
    if root.exists() and not root.is_dir():
        raise LibraryError(f"{root} is a file, no library; name a folder, or a place where there is nothing yet.")
    present = sorted(path.name for path in root.iterdir()) if root.is_dir() else []
    odd = [name for name in present if name != LOCK_FILE and not name.startswith(STAGING_PREFIX)]
    if odd and MANIFEST_FILE not in odd:
        raise LibraryError(f"{root} holds {odd[:5]}, but no {MANIFEST_FILE}: it is no library.")


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
