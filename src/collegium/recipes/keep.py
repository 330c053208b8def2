"""Experts coming and going, with their rows in the routers."""

from collections.abc import Callable

from collegium.compose import Cast, assemble
from collegium.core.errors import RoutingError
from collegium.core.names import FITTED_GATES, FITTED_ROUTERS
from collegium.data import Corpus, Domain
from collegium.library import Library, forget_prototypes
from collegium.models import Base
from collegium.recipes.fit_routers import FIT_DOCUMENTS, fit_routers, sequence_likelihoods
from collegium.recipes.watch import Watch
from collegium.routers import (
    cached_sequences,
    grow_cached_prior,
    grow_classifier,
    grow_cluster,
    shrink_cached_prior,
    shrink_classifier,
    shrink_cluster,
    shrink_phatgoose,
)
from collegium.routers.fitted import known_experts, load_fit

_SHRINK: dict[str, Callable[[Library, str], None]] = {
    "classifier": lambda library, name: shrink_classifier(library, expert=name),
    "cluster": lambda library, name: shrink_cluster(library, expert=name),
    "cached_prior": lambda library, name: shrink_cached_prior(library, expert=name),
    "phatgoose": lambda library, name: shrink_phatgoose(library, expert=name),
}


def route_all(base: Base, library: Library, corpus: Corpus, *, seed: int, watch: Watch) -> None:
    """Fit the routers that are not there; in those that are, give experts without a row theirs and touch no other.

    A first fit takes the domains that have an expert of their name, at least two. Nothing is ever fitted again.
    """
    experts = library.names(task="language")
    domains = [domain for domain in corpus if domain.name in experts]
    absent = [router for router in FITTED_ROUTERS if router not in library.router_names()] if len(domains) > 1 else []
    lacks = {router: lacking(library, router) for router in FITTED_ROUTERS}
    waiting = [domain for domain in domains if any(domain.name in names for names in lacks.values())]
    textless = [name for name in lacks["cached_prior"] if name not in corpus.names]
    if not (absent or waiting or textless):
        return
    cast = assemble(base, library)
    refusals = [line for domain in waiting for line in route_to(cast, library, domain)]
    refusals += [line for name in textless for line in _refusals(lambda name=name: grow_prior(cast, library, name))]
    for line in refusals:
        watch.say(line)
    if absent:
        fit_routers(cast, library, domains, absent, seed=seed, watch=watch)


def lacking(library: Library, router: str) -> tuple[str, ...]:
    """Return the experts without a row of their own in a fitted router; none where it was never fitted."""
    if router not in library.router_names():
        return ()
    _, card = load_fit(library, router, router=router)
    known = known_experts(library, card)
    return tuple(name for name in library.names(task="language") if name not in known)


def route_to(cast: Cast, library: Library, domain: Domain) -> list[str]:
    """Give an expert of a domain the rows that it lacks in the library's routers.

    No other row is touched. Returns why a router could not take it; that router says so when it is asked for.
    """
    split = domain.split()
    train = [document.plain for document in split.train[:FIT_DOCUMENTS]]
    dev = [document.plain for document in split.dev]
    grow: dict[str, Callable[[], None]] = {
        "classifier": lambda: grow_classifier(library, expert=domain.name, texts=train, dev=dev),
        "cluster": lambda: grow_cluster(library, expert=domain.name, documents=train),
        "cached_prior": lambda: grow_prior(cast, library, domain.name),
    }
    return [
        line for router in FITTED_ROUTERS if domain.name in lacking(library, router) for line in _refusals(grow[router])
    ]


def grow_prior(cast: Cast, library: Library, name: str) -> None:
    """Score an expert on the texts behind the cached prior, and keep its row there."""
    found = sequence_likelihoods(cast, cached_sequences(library), (name,))
    grow_cached_prior(library, expert=name, log_likelihoods=found[:, 0])


def _refusals(grow: Callable[[], None]) -> list[str]:
    """Give an expert a row; return why the router could not take it."""
    try:
        grow()
    except RoutingError as error:
        return [str(error)]
    return []


def remove_expert(library: Library, name: str, *, cascade: bool = False, keep_descendants: bool = False) -> list[str]:
    """Remove an expert and its routers' rows, and those of its descendants; return what may still carry a trace.

    The rows go first: killed in between, the expert is still there and the same call finishes.
    Raises what `Library.remove` raises, before anything is touched.
    """
    going = library.removal(name, cascade=cascade, keep_descendants=keep_descendants).removed
    traces = [line for each in going if each in library for line in unroute(library, each)]
    digests = [digest for each in going if (digest := library.expert_digest(each)) is not None]
    library.remove(name, cascade=cascade, keep_descendants=keep_descendants)
    for digest in digests:
        forget_prototypes(library, digest)
    return traces


def unroute(library: Library, name: str) -> list[str]:
    """Take an expert's rows out of the routers; return which of them learned from its texts in their first fit."""
    traces = []
    for router in (*FITTED_ROUTERS, *FITTED_GATES):
        if router not in library.router_names():
            continue
        _, card = library.load_router(router)
        if name in card["experts"] and router in _SHRINK:
            _SHRINK[router](library, name)
        if name in card["first"]:
            again = f"router fit {router}" if router in FITTED_GATES else "train"
            traces.append(
                f"router {router}: its first fit read texts of {name}; `collegium library remove {router}`, then "
                f"`collegium {again}` on the remaining texts, fits it anew"
            )
    return traces
