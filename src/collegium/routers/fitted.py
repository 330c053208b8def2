"""Fits on the shelf: found, checked and refused with the way out."""

from collections.abc import Iterable
from typing import Any

from torch import Tensor

from collegium.core.errors import RoutingError, StaleRouter, UnknownName
from collegium.core.protocols import Shelf

FIT_VERSION = 2


def load_fit(shelf: Shelf | None, fit: str, *, router: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the card of a router's fit; raises RoutingError when there is none, or of another kind."""
    way_out = f"`collegium build DATA --library LIB` fits it; in Python, collegium.routers.fit_{router}."
    if shelf is None:
        raise RoutingError(f"router {router!r} is fitted and kept with a library, but none was given. {way_out}")
    try:
        tensors, card = shelf.load_router(fit)
    except UnknownName as error:
        raise RoutingError(f"router {router!r} was never fitted: the library has no fit {fit!r}. {way_out}") from error
    if card.get("router") != router or card.get("version") != FIT_VERSION:
        found = f"{card.get('router')!r} version {card.get('version')!r}"
        raise RoutingError(f"fit {fit!r} is a {found}, not a {router!r} version {FIT_VERSION}. {way_out}")
    return tensors, card


def check_covered(experts: Iterable[str], fitted: Iterable[str], *, router: str, fit: str) -> None:
    """Raise StaleRouter when the fit lacks an expert."""
    known = set(fitted)
    missing = [name for name in experts if name not in known]
    if missing:
        raise StaleRouter(
            f"router {router!r} (fit {fit!r}) was fitted without {missing}: `collegium build DATA --library LIB` with "
            f"their texts adds them; in Python, collegium.routers.grow_{router}. Or leave them out with ?experts=."
        )


def fit_card(router: str, **facts: Any) -> dict[str, Any]:  # noqa: ANN401 - a JSON object
    """Return the card of a fit: the router, the format's version, and these facts."""
    return {"router": router, "version": FIT_VERSION, **facts}
