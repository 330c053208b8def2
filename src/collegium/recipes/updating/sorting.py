"""Which expert a document belongs to, and which documents belong to none."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from collegium.compose import Cast, only_router, route
from collegium.compose.routed import last_weights
from collegium.core.errors import DataError, RoutingError
from collegium.core.protocols import PrefixRouter
from collegium.core.routing import BASE
from collegium.data import Document, cut
from collegium.infer import HeldOut, TokenTable, fill_table, held_out
from collegium.library import Library
from collegium.recipes.watch import Watch
from collegium.routers import parse

ROUTED_TOKENS = 512
"""At most so many tokens of a document decide whose it is."""
FIT_DOCUMENTS = 2
"""An expert learns from one document at least and is measured by another."""

Why = Literal["abstained", "base", "short"]
"""Why a document is left: the router gave it to nobody, the base reads it as well as the expert, nothing to read."""


@dataclass(frozen=True)
class Sorted:
    """Documents by the expert that they belong to, and why each of the others belongs to none."""

    mine: Mapping[str, tuple[Document, ...]]
    left: Mapping[str, Why]
    tokens: int


def bound_router(name: str, cast: Cast, library: Library) -> PrefixRouter:
    """Return a router over a library's experts; raises RoutingError for gates and for one that was never fitted."""
    router = only_router(parse(name), what="sorting documents")
    return router.bind(cast.names, shelf=library, tokenizer=cast.base.tokenizer)


def bound_doubter(cast: Cast, library: Library) -> PrefixRouter | None:
    """Return the library's classifier, which gives what is of no domain to nobody; None where it cannot be asked."""
    try:
        return bound_router("classifier", cast, library)
    except RoutingError:
        return None


def sort_documents(
    documents: Sequence[Document],
    cast: Cast,
    router: PrefixRouter,
    *,
    doubter: PrefixRouter | None = None,
    window: int,
    watch: Watch,
) -> Sorted:
    """Return whose each document is: the expert with the largest weight, averaged over its first windows.

    The weight that counts is the one at the end of a window, of which the router reads all. A document that the base
    reads with no more nats than its expert belongs to nobody, and neither does one that the doubter gives to the base.
    """
    text, left = _windows(documents, cast, window)
    if text is None:
        return Sorted({}, left, 0)
    names = tuple(dict.fromkeys((*router.experts, *cast.names, BASE)))
    update = watch.begin("sorting documents", int(text.lengths.sum()))
    table = fill_table(cast.voices(), text, names, progress=lambda done, _: update(done))
    weights = _weights(router, table, cast)
    doubts = None if doubter is None else _weights(doubter, table, cast)
    rows_of: dict[str, list[int]] = {}
    for row, name in enumerate(text.domains):
        rows_of.setdefault(name, []).append(row)
    mine: dict[str, list[Document]] = {}
    for document in documents:
        if document.hash in left:
            continue
        rows = rows_of[document.hash]
        chosen = _peak(router, weights[rows])
        counted = text.counted[rows]
        nats = {name: -float(table.column(name)[rows][counted].double().sum()) for name in (chosen, BASE)}
        doubted = doubter is not None and doubts is not None and _peak(doubter, doubts[rows]) == BASE
        if chosen == BASE or doubted:
            left[document.hash] = "abstained"
        elif nats[BASE] <= nats[chosen]:
            left[document.hash] = "base"
        else:
            mine.setdefault(chosen, []).append(document)
    return Sorted({name: tuple(each) for name, each in sorted(mine.items())}, left, int(text.lengths.sum()))


def _peak(router: PrefixRouter, weights: Float[Tensor, "window expert"]) -> str:
    return router.experts[int(weights.mean(0).argmax())]


def _windows(documents: Sequence[Document], cast: Cast, window: int) -> tuple[HeldOut | None, dict[str, Why]]:
    """Return the documents' first windows, each under its hash, and those with no token to predict."""
    found, left = {}, {}
    for document in documents:
        try:
            found[document.hash] = cut(
                [document], cast.base.tokenizer, window=window, budget_tokens=max(window, ROUTED_TOKENS)
            )
        except DataError:
            left[document.hash] = "short"
    return (held_out(found, context=1) if found else None), left


def _weights(router: PrefixRouter, table: TokenTable, cast: Cast) -> Float[Tensor, "window expert"]:
    """Return the weights at the end of each window, all of which the router may read beforehand."""
    text = table.text
    routing = route(
        router,
        text.tokens,
        lengths=text.lengths,
        context=text.lengths,
        tokenizer=cast.base.tokenizer,
        log_likelihoods=table.columns(router.experts) if router.needs_likelihoods else None,
    )
    return last_weights(routing, text.lengths)[:, 0]


def trainable(documents: Sequence[Document]) -> bool:
    """Return whether there are enough to train on and to choose by, without those that their hash keeps for tests."""
    kept = [each for each in documents if int(each.hash, 16) % 10]
    return len(documents) > FIT_DOCUMENTS and len(kept) >= FIT_DOCUMENTS
