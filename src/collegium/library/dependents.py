"""What must go along when something is removed, and what was made from it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from collegium.core.errors import ConfigError, CorruptExpert, LibraryError, UnknownName
from collegium.core.tables import nearest
from collegium.library.removal import Removal
from collegium.library.shelves import read_router_card

if TYPE_CHECKING:
    from collegium.library.library import Library


@dataclass(frozen=True)
class Plan:
    """A removal before it is done: the entries (`experts/NAME`, ...) and what is told to the user."""

    entries: tuple[str, ...]
    removal: Removal


def plan_removal(library: "Library", name: str, *, cascade: bool, keep_descendants: bool) -> Plan:
    """Return what removing a name means; raises UnknownName, or LibraryError naming what was made from it."""
    if cascade and keep_descendants:
        raise ConfigError("give either cascade or keep_descendants, not both.")
    if name in library.router_names():
        return Plan((f"routers/{name}",), Removal((name,)))
    models = {each: _members(library, each) for each in library.model_names()}
    if name not in library and name not in models:
        everything = (*library, *library.router_names(), *models)
        raise UnknownName(f"the library has nothing called {name!r}. {nearest(name, everything)}")
    going = {name} | {each for each in models.get(name, ()) if each.startswith(f"{name}-")}
    made = _made_from(library, going, models)
    if made and not (cascade or keep_descendants):
        raise LibraryError(
            f"{', '.join(sorted(made))} came from {name!r}. Remove them too (cascade=True, --cascade), or keep them "
            "with a card that names a lost parent (keep_descendants=True, --keep-descendants)."
        )
    going |= made if cascade else set()
    entries = [f"models/{each}.json" for each in going & models.keys()]
    entries += [f"experts/{each}" for each in going if each in library]
    routings = _routings(library, going & models.keys())
    entries += [f"routers/{each}" for each in routings]
    kept = () if cascade else tuple(sorted(made))
    traces = tuple(each for each in _traces(library, going) if each not in routings)
    return Plan(tuple(sorted(entries)), Removal(tuple(sorted(going | routings)), kept, traces))


def _members(library: "Library", model: str) -> tuple[str, ...]:
    try:
        members = library.load_model(model).get("members", ())
    except LibraryError:
        return ()  # `verify` tells; a damaged model must neither stay for ever nor keep others from being removed.
    return tuple(each for each in members if each in library)


def _routings(library: "Library", models: set[str]) -> set[str]:
    """Return the fitted routers that were kept for these models alone: named after them."""
    found = set()
    for model in models:
        try:
            router = library.load_model(model).get("router")
        except LibraryError:
            continue
        if isinstance(router, str) and router.startswith(f"{model}-") and router in library.router_names():
            found.add(router)
    return found


def _made_from(library: "Library", going: set[str], models: dict[str, tuple[str, ...]]) -> set[str]:
    """Return the experts descended from those that go, and the models with a member among all of these."""
    born = {each for name in going if name in library for each in library.descendants(name)}
    using = {model for model, members in models.items() if set(members) & (going | born)}
    return (born | using) - going


def _traces(library: "Library", going: set[str]) -> tuple[str, ...]:
    found = []
    for router in library.router_names():
        try:
            card = read_router_card(library.path / "routers" / router)["card"]
        except CorruptExpert:
            continue  # `verify` tells; a damaged router must not keep an expert from being removed.
        if going & (_names(card.get("experts")) | _names(card.get("first"))):
            found.append(router)
    return tuple(found)


def _names(value: object) -> set[str]:
    """Return the experts that a router's card lists; a card from elsewhere may hold anything."""
    return set(map(str, value)) if isinstance(value, list | dict) else set()
