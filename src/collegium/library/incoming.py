"""What is to be added to a library, read and named: an expert in memory, a folder of ours, or a PEFT folder."""

from collections.abc import Mapping
from pathlib import Path

from collegium.core.cards import Fingerprint
from collegium.core.errors import LibraryError
from collegium.core.names import check_name
from collegium.experts import Expert, is_peft_folder, load_expert, read_peft
from collegium.models import Base


def received(
    expert: Expert | str | Path,
    name: str | None,
    *,
    base: Base | None,
    fingerprint: Fingerprint,
    sites: Mapping[str, tuple[int, int]] | None,
) -> Expert:
    """Return the expert under the name it is to have.

    Raises LibraryError when there is no such folder, or a PEFT folder cannot be compared with a base.
    """
    if isinstance(expert, Expert):
        return expert if name is None else expert.renamed(check_name(name))
    folder = Path(expert)
    if not folder.is_dir():
        raise LibraryError(f"there is no folder {folder}; give the folder of an expert or of a PEFT adapter.")
    if not is_peft_folder(folder):
        found = load_expert(folder, base=fingerprint, sites=sites)
        return found if name is None else found.renamed(check_name(name))
    if base is None:
        raise LibraryError(
            f"{folder} comes from elsewhere, so its layers must be compared with the base's: "
            "open the library with its base, Library(path, base=load_base(...))."
        )
    return read_peft(folder, base, name=name)
