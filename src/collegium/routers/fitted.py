"""Fits on the shelf: found, checked, changed, and refused with the way out."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from torch import Tensor

from collegium.core.errors import RoutingError, StaleRouter, UnknownName
from collegium.core.names import FITTED_ROUTERS
from collegium.core.protocols import RouterChange, Shelf

FIT_VERSION = 2

Fit = tuple[dict[str, Tensor], dict[str, Any]]
"""A fit's tensors and its card."""


def load_fit(shelf: Shelf | None, fit: str, *, router: str) -> Fit:
    """Return the tensors and the card of a router's fit; raises RoutingError when there is none, or of another kind."""
    if shelf is None:
        raise RoutingError(
            f"router {router!r} is fitted and kept with a library, but none was given. {_way_out(router)}"
        )
    try:
        tensors, card = shelf.load_router(fit)
    except UnknownName as error:
        raise _never_fitted(fit, router) from error
    check_kind(card, fit, router=router)
    return tensors, card


def covering_fit(experts: Iterable[str], shelf: Shelf | None, fit: str, *, router: str) -> Fit:
    """Return a router's fit that has a row for each of these experts; raises StaleRouter when it lacks one.

    A row counts for the expert it was fitted for: not for another that took its name.
    """
    tensors, card = load_fit(shelf, fit, router=router)
    assert shelf is not None
    known = known_experts(shelf, card)
    missing = [name for name in experts if name not in known]
    if missing:
        raise StaleRouter(
            f"router {router!r} (fit {fit!r}) was fitted without {missing}: {_growing(router)} with their texts adds "
            f"them; in Python, collegium.routers.grow_{router}. Or leave them out with ?experts=."
        )
    return tensors, card


def exact_fit(experts: Iterable[str], shelf: Shelf | None, fit: str, *, router: str) -> Fit:
    """Return a router's fit that was made for these very experts; raises StaleRouter when any came, went or changed.

    For routers whose parts all depend on each other (growth `refit`).
    """
    tensors, card = load_fit(shelf, fit, router=router)
    assert shelf is not None
    wanted, fitted = set(experts), set(card["experts"])
    known = known_experts(shelf, card)
    changes = {
        "came": sorted(wanted - fitted),
        "are left out": sorted(fitted - wanted),
        "changed": sorted((wanted & fitted) - known),
    }
    told = ", ".join(f"{', '.join(names)} {what}" for what, names in changes.items() if names)
    if told:
        raise StaleRouter(
            f"router {router!r} (fit {fit!r}) is stale: since it was fitted for {', '.join(sorted(fitted))}, {told}. "
            f"All its weights depend on each other: {_way_out(router)}"
        )
    return tensors, card


def is_fitted(shelf: Shelf, fit: str) -> bool:
    """Return whether there is a fit of this name, of whatever router."""
    try:
        shelf.load_router(fit)
    except UnknownName:
        return False
    return True


def check_fit_base(card: Mapping[str, Any], base: str, fit: str) -> None:
    """Raise RoutingError when a fit was learnt on another base than the one of this short fingerprint."""
    if card.get("base") != base:
        raise RoutingError(
            f"fit {fit!r} was learnt inside base {card.get('base')!r}, this is {base!r}, where its weights mean "
            f"nothing. {_removing(fit)} {_way_out(str(card.get('router')))}"
        )


def change_fit(shelf: Shelf, fit: str, change: RouterChange, *, router: str) -> None:
    """Replace a router's fit by what `change` makes of it; raises what `load_fit` raises."""

    def checked(tensors: dict[str, Tensor], card: dict[str, Any]) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        check_kind(card, fit, router=router)
        return change(tensors, card)

    try:
        shelf.update_router(fit, checked)
    except UnknownName as error:
        raise _never_fitted(fit, router) from error


def known_experts(shelf: Shelf, card: Mapping[str, Any]) -> frozenset[str]:
    """Return the experts whose rows in a fit are their own: fitted for the payload that now goes by the name."""
    return frozenset(name for name, digest in card["experts"].items() if digest == shelf.expert_digest(name))


def fit_card(
    router: str,
    shelf: Shelf,
    *,
    experts: Iterable[str],
    first: Sequence[str],
    **facts: Any,  # noqa: ANN401 - JSON values
) -> dict[str, Any]:
    """Return the card of a new fit.

    experts: who has a row, each kept with the checksum of its payload.
    first:   whose texts are in what the rows share, which growing and shrinking leave as it is.
    """
    rows = {name: shelf.expert_digest(name) for name in sorted(experts)}
    return {"router": router, "version": FIT_VERSION, "experts": rows, "first": sorted(first), **facts}


def with_row(card: Mapping[str, Any], shelf: Shelf, expert: str) -> dict[str, Any]:
    """Return the card of a fit that has a new row for an expert."""
    rows = {**card["experts"], expert: shelf.expert_digest(expert)}
    return {**card, "experts": dict(sorted(rows.items()))}


def without_row(card: Mapping[str, Any], expert: str) -> dict[str, Any]:
    """Return the card of a fit whose row for an expert is gone."""
    return {**card, "experts": {name: digest for name, digest in card["experts"].items() if name != expert}}


def check_kind(card: Mapping[str, Any], fit: str, *, router: str) -> None:
    """Raise RoutingError for the card of another router's fit, or of another version."""
    if card.get("router") != router or card.get("version") != FIT_VERSION:
        found = f"{card.get('router')!r} version {card.get('version')!r}"
        raise RoutingError(
            f"fit {fit!r} is a {found}, not a {router!r} version {FIT_VERSION}. {_removing(fit)} {_way_out(router)}"
        )


def _never_fitted(fit: str, router: str) -> RoutingError:
    return RoutingError(f"router {router!r} was never fitted: the library has no fit {fit!r}. {_way_out(router)}")


def _way_out(router: str) -> str:
    command = "train" if router in FITTED_ROUTERS else f"router fit {router}"
    return f"`collegium {command} DATA --library LIB` fits it; in Python, collegium.{_module(router)}.fit_{router}."


def _removing(fit: str) -> str:
    return f"`collegium library remove {fit} --library LIB` takes it away; then"


def _module(router: str) -> str:
    return "routers" if router in FITTED_ROUTERS else "compose"


def _growing(router: str) -> str:
    return f"`collegium {'train' if router in FITTED_ROUTERS else f'router fit {router}'} DATA --library LIB`"
