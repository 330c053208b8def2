"""The small-scale experiment on a library of private experts: who is alike, who is chosen, what it is worth.

Every training domain is cut into three parts with an expert each (the private library); clusters of these experts by
their weights are given an expert each, trained on all that their members read (the clusters' library). Gates, searched
weights and an oracle weigh the private experts on in-domain, mixed and unseen text.
"""

import functools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.claims.private_rows import METHODS, measured, rows
from collegium.claims.private_score import (
    GATES,
    Scores,
    gate_of,
    nats_of,
    oracle_nats,
    own_family,
    searched,
    searched_scores,
    uniform_scores,
    windows_in,
)
from collegium.claims.private_setup import PrivateSettings, judged_text, private_names
from collegium.claims.private_train import fit_gate, found_clusters, keep_expert, settings_of, share_of
from collegium.claims.small_setup import Materials, SmallTexts, materials
from collegium.compose import Cast, GatedMix, assemble
from collegium.core.errors import DataError
from collegium.infer import HeldOut, score_text
from collegium.library import Library
from collegium.models import Base

_FITTED = ("phatgoose", "xlora")


def private_experiment(
    settings: PrivateSettings, names: tuple[str, ...], *, base: Callable[[], Base], texts: Callable[[], SmallTexts]
) -> Experiment:
    """Return the experiment over the domains `names`; base and texts are opened when the first piece needs them."""
    opened, read = functools.cache(base), functools.cache(texts)

    @functools.cache
    def drawn(seed: int) -> Materials:
        return materials(read(), opened().tokenizer, settings.sizes, seed)

    work = Work(settings, names, opened, read, drawn)
    return Experiment(
        pieces=(
            *(f"private-{name}" for name in names),
            "clusters",
            *(f"cluster-{number}" for number in range(len(names))),
            *(f"fit-{gate}" for gate in _FITTED),
            "search",
            *(f"chosen-{gate}" for gate in GATES),
            *(f"score-{method}" for method in METHODS),
        ),
        run=work.run,
        measure=functools.partial(measured, domains=names),
        rows=functools.partial(rows, domains=names),
        settings=settings_of(settings, names),
    )


@dataclass(frozen=True)
class Work:
    """Computes the pieces of one experiment."""

    settings: PrivateSettings
    names: tuple[str, ...]
    base: Callable[[], Base]
    texts: Callable[[], SmallTexts]
    drawn: Callable[[int], Materials]

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one piece's result."""
        stage, _, name = piece.partition("-")
        stages: dict[str, Callable[[str, Place], PieceResult]] = {
            "private": self.private,
            "clusters": self.clusters,
            "cluster": self.cluster,
            "fit": self.fit,
            "search": self.search,
            "chosen": self.chosen,
            "score": self.score,
        }
        return stages[stage](name, place)

    @property
    def unseen(self) -> tuple[str, ...]:
        """The domains that no expert has seen."""
        return tuple(domain.name for domain in self.texts().unseen)

    def found(self, place: Place) -> Materials:
        """Return a seed's texts."""
        return self.drawn(place.number)

    def text(self, place: Place) -> HeldOut:
        """Return what a seed's methods are judged on."""
        return judged_text(self.found(place), self.names, self.unseen, middle=self.settings.middle)

    def library(self, place: Place, label: str = "private") -> Library:
        """Return the library of private experts, or of the clusters'."""
        return Library(place.folder / label, base=self.base())

    def cast(self, place: Place, label: str = "private") -> Cast:
        """Return a library's experts, attached to the base."""
        return assemble(self.base(), self.library(place, label))

    def gated(self, gate: str, place: Place, label: str = "private") -> GatedMix:
        """Return a library's experts under a gate."""
        model = self.cast(place, label).mixed(gate_of(gate, self.settings.top_k), shelf=self.library(place, label))
        assert isinstance(model, GatedMix)
        return model

    def private(self, domain: str, place: Place) -> PieceResult:
        """Return what the private experts of a domain cost, after training and keeping them."""
        found, library = self.found(place), self.library(place)
        return {
            name: self._trained(name, (name,), found, library, place.number)
            for name in private_names(domain, self.settings.parts)
        }

    def _trained(
        self, name: str, members: tuple[str, ...], found: Materials, library: Library, seed: int
    ) -> dict[str, Any]:
        base = self.base()
        if base.tokenizer is None:
            raise DataError("the experiment reads text, and this base has no tokenizer.")
        share = share_of(name, members, found, tokenizer=base.tokenizer, settings=self.settings)
        return keep_expert(base, library, share, settings=self.settings, seed=seed)

    def clusters(self, name: str, place: Place) -> PieceResult:
        """Return the clusters of the private experts."""
        return found_clusters(self.library(place), clusters=len(self.names), settings=self.settings, seed=place.number)

    def cluster(self, number: str, place: Place) -> PieceResult:
        """Return what the expert of a cluster cost; nothing where there are fewer clusters."""
        members = place.done["clusters"]["members"]
        if int(number) >= len(members):
            return {}
        chosen, library = tuple(members[int(number)]), self.library(place, "clusters")
        return self._trained(f"cluster-{number}", chosen, self.found(place), library, place.number)

    def fit(self, gate: str, place: Place) -> PieceResult:
        """Return what fitting a gate over the private experts gave."""
        return fit_gate(
            gate,
            self.cast(place),
            self.library(place),
            self.found(place),
            settings=self.settings,
            seed=place.number,
        )

    def search(self, name: str, place: Place) -> PieceResult:
        """Return searched weights of the private experts."""
        started = time.perf_counter()
        found = searched(
            self.cast(place),
            self.found(place).text,
            self.names,
            self.unseen,
            evaluations=self.settings.searches,
            windows=self.settings.search_windows,
            batch=self.settings.sizes.scoring_batch,
        )
        return {
            "weights": {domain: dict(each.weights) for domain, each in found.items()},
            "nats": {domain: each.loss for domain, each in found.items()},
            "seconds": time.perf_counter() - started,
        }

    def chosen(self, gate: str, place: Place) -> PieceResult:
        """Return how often a gate weighs the own domain's experts the most."""
        own = windows_in(self.text(place), self.names)
        return own_family(self.gated(gate, place).routing(own.tokens, lengths=own.lengths), own)

    def score(self, method: str, place: Place) -> PieceResult:
        """Return the nats of a way of weighing, by domain, and the seconds that scoring took."""
        text, batch = self.text(place), self.settings.sizes.scoring_batch
        started = time.perf_counter()
        if method == "oracle":
            nats = oracle_nats(self.cast(place), text, unseen=self.unseen, middle=self.settings.middle, batch=batch)
        else:
            nats = nats_of(self._scores(method, place, text), text)
        return {"nats": nats, "seconds": time.perf_counter() - started}

    def _scores(self, method: str, place: Place, text: HeldOut) -> Scores:
        batch = self.settings.sizes.scoring_batch
        label, _, way = method.rpartition("-")
        label = label or "private"
        if way == "base":
            return score_text(self.base(), text, batch=batch)
        if way == "uniform":
            return uniform_scores(self.cast(place, label), text, batch=batch)
        if way == "search":
            return searched_scores(self.cast(place), text, place.done["search"]["weights"], batch=batch)
        return score_text(self.gated(way, place, label), text, batch=batch)
