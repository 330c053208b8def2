"""Experts coming and going, with their rows in the routers that grow exactly."""

from collections.abc import Callable

from collegium.data import Domain
from collegium.library import Library
from collegium.routers import grow_classifier, shrink_cached_prior, shrink_classifier, shrink_cluster

_SHRINK: dict[str, Callable[[Library, str], None]] = {
    "classifier": lambda library, name: shrink_classifier(library, expert=name),
    "cluster": lambda library, name: shrink_cluster(library, expert=name),
    "cached_prior": lambda library, name: shrink_cached_prior(library, expert=name),
}


def route_to(library: Library, domain: Domain) -> None:
    """Give an expert of a domain its row in the library's classifier, if there is one; no other row is touched."""
    if "classifier" not in library.router_names():
        return
    split = domain.split()
    train = [document.plain for document in split.train]
    dev = [document.plain for document in split.dev]
    grow_classifier(library, expert=domain.name, texts=train, dev=dev)


def remove_expert(library: Library, name: str, *, cascade: bool = False, keep_descendants: bool = False) -> list[str]:
    """Remove an expert and its routers' rows; return what may still carry a trace of it.

    Raises LibraryError when others descend from it, unless told what to do with them.
    """
    library.remove(name, cascade=cascade, keep_descendants=keep_descendants)
    traces = []
    for router, shrink in _SHRINK.items():
        if router not in library.router_names():
            continue
        _, card = library.load_router(router)
        if name in card.get("experts", ()):
            shrink(library, name)
            if name in card.get("background", ()) or router == "cluster":
                traces.append(f"router {router}: {name} took part in its first fit; `collegium build` on the remaining texts makes it anew")
    return traces
