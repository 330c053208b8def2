"""Replacing: an expert takes the place of the one of its name that it was trained further from, whole or not at all.

What is to come lies beside the experts as `.replacing-NAME`. Once that name is there, the exchange is decided: killed
from then on, the next writer carries it out.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from collegium.core.cards import ExpertCard
from collegium.core.errors import LibraryError
from collegium.core.files import discard, disk_errors, publish, set_aside, staging_folder, sync_tree, write_new
from collegium.core.names import is_name
from collegium.experts import Expert, check_expert, payload_digest, save_expert
from collegium.library import shelves

if TYPE_CHECKING:
    from collegium.library.library import Library

_PREFIX = ".replacing-"


def replace_expert(
    library: "Library",
    expert: Expert,
    *,
    measured: Mapping[str, Any] | None = None,
    keep_descendants: bool = False,
) -> ExpertCard:
    """Put an expert in the place of the one of its name, which it descends from, and return its card as kept.

    measured:         its first measurement. keep_descendants: leave what was made from the earlier one, whose cards and
    records then name a lost parent.

    Raises UnknownName, LibraryError when the one there is not its parent or others were made from that, and what
    `Library.add` raises for an expert that does not fit.
    """
    library._check_writable(experts=True)
    check_expert(expert, base=library.base_fingerprint, sites=library.sites)
    with library._writing():
        pass  # an exchange that was decided before is carried out
    check_descendants(library, expert.name, keep=keep_descendants)
    target = library.path / "experts" / expert.name
    with disk_errors(target), staging_folder(library.path) as aside:
        card = save_expert(expert, aside)
        if library.expert_digest(expert.name) == payload_digest(card.payload):
            return library.card(expert.name)  # it had been decided
        if measured is not None:
            write_new(aside / shelves.METRICS_FILE, shelves.metrics_line(measured).encode())
        sync_tree(aside)
        with library._writing():
            check_parent(library, expert)
            waiting = library.path / f"{_PREFIX}{expert.name}"
            publish(aside, waiting)
            try:
                _exchange(library.path, waiting)
            except OSError:
                os.rename(waiting, aside)  # not decided after all
                raise
    return card


def check_descendants(library: "Library", name: str, *, keep: bool) -> None:
    """Raise LibraryError when others were made from an expert and are not to be left behind; UnknownName for none."""
    made = library.removal(name, keep_descendants=True).kept
    if made and not keep:
        raise LibraryError(
            f"{', '.join(made)} came from {name!r} as it is; another in its place leaves them a lost parent, and a "
            "policy on a composition with it cannot be opened any more. Allow it (keep_descendants=True, "
            "--keep-descendants), or remove them first."
        )


def check_parent(library: "Library", expert: Expert) -> None:
    """Raise LibraryError unless the expert that is there by now is one that this one was trained from.

    The card may name it otherwise: as what it is kept as beside its successor.
    """
    parents, there = expert.card.parents, library.expert_digest(expert.name)
    if there is None or there not in parents.values():
        told = ", ".join(f"{name} {digest[:12]}" for name, digest in parents.items()) or "none"
        raise LibraryError(
            f"the {expert.name!r} in {library.path} is not the one that its successor was trained from (it is "
            f"{str(there)[:12]}, the parents: {told}): it was replaced or removed meanwhile. Train from the one that "
            "is there now."
        )


def finish_replacements(root: Path) -> None:
    """Carry out every exchange that was decided; the library's lock must be held."""
    for waiting in sorted(root.glob(f"{_PREFIX}*")):
        if is_name(waiting.name.removeprefix(_PREFIX)) and not waiting.is_symlink():
            _exchange(root, waiting)
        else:
            discard(waiting)


def _exchange(root: Path, waiting: Path) -> None:
    """Put what waits in its place; what cannot be done leaves all as it was."""
    target = root / "experts" / waiting.name.removeprefix(_PREFIX)
    target.parent.mkdir(exist_ok=True)
    gone = set_aside(target, root) if os.path.lexists(target) else None
    try:
        publish(waiting, target)
    except OSError:
        if gone is not None:
            os.rename(gone, target)
        raise
    if gone is not None:
        discard(gone)
