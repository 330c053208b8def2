"""Experts coming and going, with their rows in the routers that grow exactly."""

from collections.abc import Callable

from collegium.core.errors import RoutingError
from collegium.data import Corpus, Domain
from collegium.library import Library
from collegium.recipes.fit_routers import FIT_DOCUMENTS
from collegium.routers import grow_classifier, grow_cluster, shrink_cached_prior, shrink_classifier, shrink_cluster

_SHRINK: dict[str, Callable[[Library, str], None]] = {
    "classifier": lambda library, name: shrink_classifier(library, expert=name),
    "cluster": lambda library, name: shrink_cluster(library, expert=name),
    "cached_prior": lambda library, name: shrink_cached_prior(library, expert=name),
}


def unrouted(library: Library, corpus: Corpus) -> list[Domain]:
    """Return the domains whose expert has no row yet in a classifier or cluster router that was fitted."""
    fitted = [name for name in ("classifier", "cluster") if name in library.router_names()]
    known = [frozenset(library.load_router(name)[1].get("experts", ())) for name in fitted]
    return [each for each in corpus if each.name in library and any(each.name not in rows for rows in known)]


def route_to(library: Library, domain: Domain) -> list[str]:
    """Give an expert of a domain its row in the library's classifier and cluster router, where they are.

    No other row is touched. Returns why a router could not take it; that router says so when it is asked for.
    """
    split = domain.split()
    train = [document.plain for document in split.train[:FIT_DOCUMENTS]]
    dev = [document.plain for document in split.dev]
    if "classifier" in library.router_names():
        grow_classifier(library, expert=domain.name, texts=train, dev=dev)
    if "cluster" in library.router_names():
        try:
            grow_cluster(library, expert=domain.name, documents=train)
        except RoutingError as error:
            return [str(error)]
    return []


def remove_expert(library: Library, name: str, *, cascade: bool = False, keep_descendants: bool = False) -> list[str]:
    """Remove an expert and its routers' rows, and those of its descendants; return what may still carry a trace.

    The rows go first: killed in between, the expert is still there and the same call finishes.
    Raises what `Library.remove` raises, before anything is touched.
    """
    going = library.removal(name, cascade=cascade, keep_descendants=keep_descendants).removed
    traces = [line for each in going if each in library for line in _unroute(library, each)]
    library.remove(name, cascade=cascade, keep_descendants=keep_descendants)
    return traces


def _unroute(library: Library, name: str) -> list[str]:
    """Take an expert's rows out of the routers; return which of them learned from its texts."""
    traces = []
    for router, shrink in _SHRINK.items():
        if router not in library.router_names():
            continue
        _, card = library.load_router(router)
        if name in card.get("experts", ()):
            shrink(library, name)
            if name in card.get("background", ()) or router == "cluster":
                way_out = "`collegium train` on all the remaining texts fits it anew"
                traces.append(f"router {router}: {name} took part in its first fit; {way_out}")
    return traces
