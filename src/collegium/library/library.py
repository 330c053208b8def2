"""The library: experts of one base in one folder, which any number of processes may read and write at once."""

import copy
import os
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor

from collegium.core.cards import ExpertCard, Fingerprint, to_json
from collegium.core.errors import CorruptExpert, LibraryError, NameTaken, ResourceError, UnknownName
from collegium.core.files import (
    disk_errors,
    exclusive,
    publish,
    staging_folder,
    sync_tree,
    write_bytes,
    write_new,
    write_text,
)
from collegium.core.names import check_name
from collegium.core.protocols import RouterChange
from collegium.core.tables import nearest
from collegium.core.tensors import tensor_bytes
from collegium.experts import Expert, load_expert, read_card, save_expert
from collegium.library import shelves
from collegium.library.incoming import received
from collegium.library.index import Index, Row
from collegium.library.lineage import Shown, descendants, lineage
from collegium.library.manifest import (
    LOCK_FILE,
    MANIFEST_FILE,
    Defaults,
    Manifest,
    check_place,
    read_manifest,
    write_manifest,
)
from collegium.library.removal import Removal, mend, pending, remove_entries
from collegium.library.sites import Sites, read_sites, sites_key, sites_tensors
from collegium.models import Base

_KEPT_OPEN = 256


class Library:
    """Experts of one base, with the routers fitted for them and the models made of them.

    `Library(path, base=base)` opens a library or creates it; without `base` it opens an existing one, and what needs
    the base's layers to be checked (PEFT folders from elsewhere) is refused.

    base:           the base, or only its fingerprint; must be the library's own.
    base_reference: what to give `load_base` for it; default = its name. Kept when the library is created.
    read_only:      write nothing, not even the index.

    Iterating gives names; `library[name]` loads an expert when it is asked for. Raises LibraryError for a folder that
    is no library or has another base, NewerFormat for one of a later version.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        base: Base | Fingerprint | None = None,
        base_reference: str | None = None,
        read_only: bool = False,
    ) -> None:
        """Open the library, or create it when there is none and the base is known."""
        self.path = Path(path).expanduser().absolute()
        self.read_only = read_only
        self.base = base if isinstance(base, Base) else None
        fingerprint = base.fingerprint if isinstance(base, Base) else base
        reference = base_reference or (base.name if isinstance(base, Base) else "")
        if not (self.path / MANIFEST_FILE).is_file():
            self._create(fingerprint, reference)
        found = read_manifest(self.path).base
        if fingerprint is not None and fingerprint != found:
            raise LibraryError(
                f"{self.path} is a library for base {found.short}, the base given is {fingerprint.short}. "
                "Open it with its own base, or name another folder."
            )
        self._only: frozenset[str] | None = None
        self._index = Index(self.path, writable=not read_only)
        self._opened: dict[str, tuple[str, Expert]] = {}
        self._sites = None if self.base is None else self.base.sites

    # -- what there is ------------------------------------------------------------------------------------------

    @property
    def base_fingerprint(self) -> Fingerprint:
        """The fingerprint of the base all experts were made for."""
        return read_manifest(self.path).base

    @property
    def base_reference(self) -> str:
        """What `load_base` takes for this base, empty when it was never said."""
        return read_manifest(self.path).base_reference

    @property
    def sites(self) -> Sites | None:
        """The base's places for experts by path; None when neither the base nor they are at hand."""
        if self._sites is None:
            self._sites = read_sites(self.path, self.base_fingerprint)
        return self._sites

    @property
    def defaults(self) -> Defaults:
        """The router and composition used when none is asked for."""
        return read_manifest(self.path).defaults

    def rows(self) -> Mapping[str, Row]:
        """Return name -> what the index knows, for every expert there is now, in order of name."""
        rows, leaving = self._index.rows(), pending(self.path)
        if self._only is None and not leaving:
            return rows
        kept = rows if self._only is None else rows.keys() & self._only
        return {name: rows[name] for name in sorted(kept) if f"experts/{name}" not in leaving}

    def names(self, task: str | None = None) -> tuple[str, ...]:
        """Return the experts' names in order, of all tasks or of one; a damaged card counts as any task."""
        return tuple(name for name, row in self.rows().items() if task in (None, row.task) or row.problem)

    def __contains__(self, name: object) -> bool:
        """Whether there is an expert of that name."""
        return self._find(name) is not None

    def __len__(self) -> int:
        """How many experts there are."""
        return len(self.rows())

    def __iter__(self) -> Iterator[str]:
        """Iterate over the experts' names."""
        return iter(self.names())

    def __getitem__(self, name: str) -> Expert:
        """Return an expert, strictly checked when it is first read; raises UnknownName."""
        stamp = self._row(name).stamp
        kept = self._opened.get(name)
        if kept is None or kept[0] != stamp:
            expert = load_expert(self._folder(name), base=self.base_fingerprint, sites=self.sites)
            if expert.name != name:
                raise CorruptExpert(f"{self._folder(name)}: the card names another expert, {expert.name!r}.")
            while len(self._opened) >= _KEPT_OPEN:
                del self._opened[next(iter(self._opened))]
            kept = self._opened[name] = (stamp, expert)
        return kept[1]

    def forget(self, name: str) -> None:
        """Read and check an expert anew when it is next asked for."""
        self._opened.pop(name, None)

    def card(self, name: str) -> ExpertCard:
        """Return an expert's card; raises UnknownName, or CorruptExpert."""
        self._row(name)
        return read_card(self._folder(name))

    def expert_digest(self, name: str) -> str | None:
        """Return the checksum of an expert's payload, None when there is no such expert."""
        row = self._find(name)
        return None if row is None else row.digest

    def show(self, name: str) -> Shown:
        """Return everything known about an expert."""
        card, rows = self.card(name), self._index.rows()
        folder = self._folder(name)
        return Shown(
            card=card,
            lineage=lineage(rows, name),
            descendants=self.descendants(name),
            metrics=tuple(self.metrics(name)),
            payload_bytes=sum((folder / file).stat().st_size for file in card.payload),
        )

    def descendants(self, name: str) -> tuple[str, ...]:
        """Return the experts branched or merged from this one, directly or not."""
        self._row(name)
        leaving = pending(self.path)
        return tuple(each for each in descendants(self._index.rows(), name) if f"experts/{each}" not in leaving)

    def filter(self, names: Collection[str] | None) -> "Library":
        """Return the library of these experts alone: a view, to which none can be added and from which none removed.

        None gives all of them again. Raises UnknownName.
        """
        for name in names or ():
            self._row(name)
        view = copy.copy(self)
        view._only = None if names is None else frozenset(names)
        return view

    def verify(self) -> dict[str, list[str]]:
        """Return what is wrong, by name; an empty table means every file is what its card says and can be used."""
        from collegium.library.verify import find_problems

        self._index.rebuild()
        return find_problems(self)

    # -- experts in and out -------------------------------------------------------------------------------------

    def add(
        self,
        expert: Expert | str | Path,
        name: str | None = None,
        *,
        trust_base: bool = False,
        measured: Mapping[str, Any] | None = None,
    ) -> ExpertCard:
        """Add an expert of ours or a PEFT folder, whole or not at all, and return its card as kept.

        name:       default = the expert's, or the folder's.
        trust_base: do not warn that an expert from elsewhere does not name its base.
        measured:   its first measurement (its learning curve), there from the moment the expert is.

        Raises NameTaken, IncompatibleExpert, CorruptExpert, or ResourceError when the disk is full.
        """
        expert = self.incoming(expert, name, trust_base=trust_base)
        self._keep_sites()
        target = self._folder(expert.name)
        with disk_errors(target), staging_folder(self.path) as aside:
            card = save_expert(expert, aside)
            if measured is not None:
                write_new(aside / shelves.METRICS_FILE, shelves.metrics_line(measured).encode())
            sync_tree(aside)
            with self._writing():
                self._check_free(expert.name)
                target.parent.mkdir(exist_ok=True)
                publish(aside, target)
        self._index.row(expert.name)
        return card

    def incoming(self, expert: Expert | str | Path, name: str | None = None, *, trust_base: bool = False) -> Expert:
        """Return the expert as `add` would keep it, and raise what it would raise; nothing is touched."""
        self._check_writable(experts=True)
        fingerprint, sites = self.base_fingerprint, self.sites
        found = received(expert, name, base=self.base, fingerprint=fingerprint, sites=sites, trust_base=trust_base)
        self._check_free(found.name)
        return found

    def remove(self, name: str, *, cascade: bool = False, keep_descendants: bool = False) -> Removal:
        """Remove an expert, a router, or a model with the members made for it; return what went and what stays.

        cascade:          remove all experts and models made from it, too.
        keep_descendants: leave them; their cards still name the lost parent.

        Raises UnknownName, or LibraryError when others were made from it and neither is given.
        """
        from collegium.library.dependents import plan_removal

        self._check_writable(experts=True)
        with self._writing():
            plan = plan_removal(self, name, cascade=cascade, keep_descendants=keep_descendants)
            remove_entries(self.path, plan.entries)
        self._index.drop(plan.removal.removed)
        return plan.removal

    def removal(self, name: str, *, cascade: bool = False, keep_descendants: bool = False) -> Removal:
        """Return what `remove` would do, and raise what it would raise; nothing is touched."""
        from collegium.library.dependents import plan_removal

        self._check_writable(experts=True)
        return plan_removal(self, name, cascade=cascade, keep_descendants=keep_descendants).removal

    def measure(self, name: str, record: Mapping[str, Any]) -> None:
        """Append a measurement to an expert's metrics."""
        with self._writing():
            self._row(name)
            shelves.append_metrics(self._folder(name) / shelves.METRICS_FILE, record, staging=self.path)

    def metrics(self, name: str) -> list[dict[str, Any]]:
        """Return an expert's measurements, oldest first."""
        self._row(name)
        return shelves.read_metrics(self._folder(name) / shelves.METRICS_FILE)

    def set_defaults(
        self, *, router: str | None = None, composition: str | None = None, top_k: int | None = None
    ) -> None:
        """Set how the library is composed when nothing else is asked for; None = Collegium's own default."""
        with self._writing():
            old = read_manifest(self.path)
            write_manifest(self.path, Manifest(old.base, old.base_reference, Defaults(router, composition, top_k)))

    # -- the other shelves --------------------------------------------------------------------------------------

    def router_names(self) -> tuple[str, ...]:
        """Return the names of the fitted routers."""
        return self._shelf("routers")

    def load_router(self, name: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """Return a fitted router's tensors and card; raises UnknownName."""
        if f"routers/{name}" in pending(self.path):
            raise UnknownName(f"router {name!r} is being removed.")
        return shelves.read_router(self.path, name)

    def save_router(self, name: str, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
        """Keep a fitted router, whole or not at all, in place of an earlier fit; raises NameTaken."""
        with self._writing():
            self._check_free(name, what="router")
            shelves.write_router(self.path, name, tensors, card)

    def update_router(self, name: str, change: RouterChange) -> None:
        """Keep what `change` makes of a fitted router; no other writer comes in between. Raises UnknownName."""
        with self._writing():
            shelves.write_router(self.path, name, *change(*self.load_router(name)))

    def model_names(self) -> tuple[str, ...]:
        """Return the names of the compound models."""
        return self._shelf("models", suffix=".json")

    def load_model(self, name: str) -> dict[str, Any]:
        """Return the record of a compound model; raises UnknownName."""
        if f"models/{name}.json" in pending(self.path):
            raise UnknownName(f"model {name!r} is being removed.")
        return shelves.read_model(self.path, name)

    def save_model(self, name: str, record: Mapping[str, Any]) -> None:
        """Keep the record of a compound model (members, router, composition, constants); raises NameTaken."""
        with self._writing():
            self._check_free(name, what="model")
            write_text(self.path / "models" / f"{name}.json", to_json(dict(record)), staging=self.path)

    def derived(self, key: Any) -> dict[str, Tensor] | None:  # noqa: ANN401 - any value of JSON
        """Return what was kept under a key, None when it must be computed again."""
        return shelves.read_derived(self.path, key)

    def keep_derived(self, key: Any, tensors: Mapping[str, Tensor]) -> None:  # noqa: ANN401 - any value of JSON
        """Keep tensors that can be computed again; a read-only library does not keep them."""
        if not self.read_only:
            with self._writing():
                write_bytes(shelves.derived_path(self.path, key), tensor_bytes(tensors), staging=self.path)

    # -- inside -------------------------------------------------------------------------------------------------

    def _create(self, base: Fingerprint | None, reference: str) -> None:
        if base is None or self.read_only:
            raise LibraryError(
                f"there is no library at {self.path}. Check the path, or make one: `collegium train` and `collegium "
                "build` do, and in Python Library(path, base=base)."
            )
        check_place(self.path)
        with disk_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with exclusive(self.path / LOCK_FILE):
                mend(self.path)
                check_place(self.path)
                if (self.path / MANIFEST_FILE).is_file():
                    return  # Another process was first.
                write_manifest(self.path, Manifest(base, reference))

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Hold the library's lock, with everything that dead writers left behind mended."""
        self._check_writable()
        with disk_errors(self.path), exclusive(self.path / LOCK_FILE):
            mend(self.path)
            yield

    def _check_writable(self, *, experts: bool = False) -> None:
        if self.read_only:
            raise ResourceError(f"the library {self.path} was opened read-only; open it without read_only to write.")
        if experts and self._only is not None:
            raise LibraryError("this is a part of a library; add to and remove from the library itself.")

    def _check_free(self, name: str, *, what: str = "expert") -> None:
        check_name(name, what=what)
        leaving = pending(self.path)
        shelf_of = {"expert": f"experts/{name}", "router": f"routers/{name}", "model": f"models/{name}.json"}
        for kind, entry in shelf_of.items():
            replaced = kind == what and what != "expert"
            if not replaced and entry not in leaving and os.path.lexists(self.path / entry):
                raise NameTaken(f"the library has the {kind} {name!r} already; take another name, or remove it.")

    def _row(self, name: str) -> Row:
        row = self._find(name)
        if row is None:
            raise UnknownName(f"the library has no expert {name!r}. {nearest(str(name), self.rows())}")
        return row

    def _find(self, name: object) -> Row | None:
        hidden = self._only is not None and name not in self._only
        if not isinstance(name, str) or hidden or f"experts/{name}" in pending(self.path):
            return None
        return self._index.row(name)

    def _folder(self, name: str) -> Path:
        return self.path / "experts" / name

    def _keep_sites(self) -> None:
        """Note the base's layers, so that the next expert is compared with them where the base is not at hand."""
        fingerprint = self.base_fingerprint
        if self._sites is not None and read_sites(self.path, fingerprint) is None:
            self.keep_derived(sites_key(fingerprint), sites_tensors(self._sites))

    def _shelf(self, shelf: str, *, suffix: str = "") -> tuple[str, ...]:
        leaving = pending(self.path)
        names = shelves.folder_names(self.path / shelf, suffix=suffix)
        return tuple(name for name in names if f"{shelf}/{name}{suffix}" not in leaving)
