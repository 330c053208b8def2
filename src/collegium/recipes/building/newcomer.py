"""A further expert comes and goes: what the others answer must not change by a bit."""

import time
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.compose import assemble
from collegium.data import Corpus, Domain
from collegium.experts import FitConfig, fit_expert
from collegium.infer import HeldOut, ensemble_scores, fill_table, nats_per_token
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.keep import remove_expert, route_to
from collegium.recipes.reserved import NEWCOMER
from collegium.recipes.watch import Watch
from collegium.routers import default

LEAST_DOCUMENTS = 3
"""A domain is split into train, dev and test."""
CHECKED_WINDOWS = 2
"""Windows a domain on which the composition is compared before and after."""


@dataclass(frozen=True)
class Visit:
    """Composed log-probabilities without, with, and again without the further expert."""

    before: Float[Tensor, "window seq"]
    during: Float[Tensor, "window seq"]
    after: Float[Tensor, "window seq"]
    seconds: float

    def to_json(self, text: HeldOut) -> dict[str, Any]:
        """Return the largest change after both, and how much the visit itself cost the other domains."""
        return {
            "largest_change": float((self.after - self.before).abs().max()),
            "while_present_nats": {
                domain: nats_per_token(self.during, text, domain) - nats_per_token(self.before, text, domain)
                for domain in text.domain_names
            },
            "seconds": round(self.seconds, 3),
        }


def few_windows(text: HeldOut, *, each: int = CHECKED_WINDOWS) -> HeldOut:
    """Return the first windows of every domain."""
    rows = [
        place
        for name in text.domain_names
        for place in [number for number, domain in enumerate(text.domains) if domain == name][:each]
    ]
    index = torch.tensor(rows)
    return HeldOut(
        text.tokens[index],
        text.lengths[index],
        text.counted[index],
        text.bytes[index],
        text.context[index],
        tuple(text.domains[row] for row in rows),
    )


def visit(
    base: Base, library: Library, text: HeldOut, domain: Domain, fit: FitConfig, *, steps: int, watch: Watch
) -> Visit:
    """Return what the composition says before, while and after an expert of `domain` is in the library.

    The library is opened and composed anew each time, so nothing is remembered but what lies on disk.
    """
    start = time.perf_counter()
    before = composed(base, library, text)
    watch.say(f"adding a further expert from the texts of {domain.name!r}, then removing it")
    further = replace_name(domain)
    library.add(fit_expert(base, further, config=replace(fit, steps=steps)))
    try:
        route_to(assemble(base, library), library, further)
        during = composed(base, library, text)
    finally:
        remove_expert(library, NEWCOMER)
    after = composed(base, library, text)
    return Visit(before, during, after, time.perf_counter() - start)


def clear(library: Library) -> None:
    """Remove the further expert that a killed run left behind."""
    if NEWCOMER in library:
        remove_expert(library, NEWCOMER)


def further_domain(clusters: Corpus, corpus: Corpus) -> Domain:
    """Return the texts of the further expert: the largest cluster, or a domain where clusters are too small."""
    largest = max(clusters, key=lambda each: len(each.documents))
    return largest if len(largest.documents) >= LEAST_DOCUMENTS else next(iter(corpus))


def replace_name(domain: Domain) -> Domain:
    """Return the domain under the newcomer's name."""
    return replace(domain, name=NEWCOMER)


def composed(base: Base, library: Library, text: HeldOut) -> Float[Tensor, "window seq"]:
    """Return the default ensemble's log-probabilities; every expert of the library takes part."""
    cast = assemble(base, library)
    router = default().bind(cast.names, shelf=library, tokenizer=base.tokenizer)
    table = fill_table(cast.voices(), text, router.experts)
    return ensemble_scores(table, router, tokenizer=base.tokenizer)[0]
