"""What is to be added to a library, read, named, checked: an expert in memory, a folder of ours, a PEFT folder."""

import warnings
from pathlib import Path

from collegium.core.cards import Fingerprint
from collegium.core.errors import LibraryError
from collegium.core.names import check_name
from collegium.experts import Expert, check_expert, is_peft_folder, load_expert, read_peft
from collegium.library.sites import Sites
from collegium.models import Base


class UnverifiedBase(UserWarning):
    """An expert came without the fingerprint of its base; a small one's names and shapes fit."""


def received(
    expert: Expert | str | Path,
    name: str | None,
    *,
    base: Base | None,
    fingerprint: Fingerprint,
    sites: Sites | None,
    trust_base: bool = False,
) -> Expert:
    """Return the expert under the name it is to have, checked against the base.

    Raises LibraryError when there is no such folder, or when it says nothing about its base and its layers cannot be
    compared; IncompatibleExpert or CorruptExpert when it does not fit or is damaged.
    """
    found = _read(expert, name, base=base, fingerprint=fingerprint, sites=sites)
    check_expert(found, base=fingerprint, sites=sites)
    if found.card.base is None:
        if found.card.kind != "whole" and sites is None:
            raise _incomparable(f"expert {found.name!r}")
        if not trust_base:
            _warn(found)
    return found


def _read(
    expert: Expert | str | Path,
    name: str | None,
    *,
    base: Base | None,
    fingerprint: Fingerprint,
    sites: Sites | None,
) -> Expert:
    if isinstance(expert, Expert):
        return expert if name is None else expert.renamed(check_name(name))
    folder = Path(expert).expanduser()
    if not folder.is_dir():
        raise LibraryError(f"there is no folder {folder}; give the folder of an expert or of a PEFT adapter.")
    if not is_peft_folder(folder):
        found = load_expert(folder, base=fingerprint, sites=sites)
        return found if name is None else found.renamed(check_name(name))
    if base is None:
        raise _incomparable(str(folder))
    return read_peft(folder, base, name=name)


def _incomparable(what: str) -> LibraryError:
    return LibraryError(
        f"{what} comes from elsewhere, so its layers must be compared with the base's: "
        "open the library with its base, Library(path, base=load_base(...))."
    )


def _warn(expert: Expert) -> None:
    fits = "its names and shapes fit" if expert.card.kind != "whole" else "whether it reads this tokenizer is not known"
    warnings.warn(
        f"expert {expert.name!r} does not say which base it was made for; {fits}. "
        "Pass trust_base=True (--trust-base) when you know it.",
        UnverifiedBase,
        stacklevel=5,
    )
