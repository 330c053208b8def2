"""The small-scale experiment: one set of trained models a seed, one table, and the numbers of ten claims.

Trained at equal tokens on four domains of real text with the default base: four domain experts, a dense model of the
same rank, one of four times the rank (equal trainable parameters), one that is told the domain, four experts of random
parts, four of discovered clusters. The uniform merge costs no training. Learning rates are chosen once, on one seed,
on held-out text, three for each family.
"""

import dataclasses
import functools
import time
from collections.abc import Callable
from typing import Any

from safetensors.torch import load_file, save

from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.claims.small_growth import answers, digests, few_rows, first_row, same_answers, timed, token_scores
from collegium.claims.small_measure import Judge, metrics, perplexity_rows
from collegium.claims.small_rows import measured, rows
from collegium.claims.small_setup import Materials, SmallSettings, SmallTexts, materials
from collegium.claims.small_train import (
    FAMILIES,
    RATE_SEED,
    chosen_rate,
    family_folder,
    find_clusters,
    keep_trained,
    member_names,
    random_parts,
    rate_piece,
    try_rate,
)
from collegium.compose import Cast, Choice, SlotVoices, assemble
from collegium.core.files import write_bytes
from collegium.core.machine import resident_bytes
from collegium.core.routing import BASE
from collegium.data import discover
from collegium.infer import TokenTable, fill_table, score_text
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.columns import measure_ms
from collegium.routers import fit_cluster, fit_discovered

_TABLE = "table.safetensors"
_TIMED_WINDOWS = 4


def small_experiment(
    settings: SmallSettings, names: tuple[str, ...], *, base: Callable[[], Base], texts: Callable[[], SmallTexts]
) -> Experiment:
    """Return the experiment over the domains `names`; base and texts are opened when the first piece needs them."""
    work = Work(settings, names, functools.cache(base), functools.cache(texts))
    members = [(family, name) for family in FAMILIES for name in member_names(family, names)]
    return Experiment(
        pieces=("parts", *(f"train-{name}" for _, name in members), "growth", "table", "speed", "judged"),
        once=tuple(rate_piece(family, number) for family in FAMILIES for number in range(len(settings.rates))),
        run=work.run,
        measure=measured,
        rows=rows,
        settings={**dataclasses.asdict(settings), "rates": list(settings.rates), "domains": list(names)},
    )


@dataclasses.dataclass(frozen=True)
class Work:
    """Computes the pieces of one experiment."""

    settings: SmallSettings
    names: tuple[str, ...]
    base: Callable[[], Base]
    texts: Callable[[], SmallTexts]

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one piece's result."""
        if piece.startswith("rate-"):
            return self.rate(piece)
        if piece.startswith("train-"):
            return self.train(piece.removeprefix("train-"), place)
        stages = {"parts": self.parts, "growth": self.growth, "table": self.table, "speed": self.speed}
        return {**stages, "judged": self.judged}[piece](place)

    def found(self, seed: int) -> Materials:
        """Return a seed's texts."""
        return materials(self.texts(), self.base().tokenizer, self.settings, seed)

    def rate(self, piece: str) -> PieceResult:
        """Return what one learning rate gave one family on the one seed they are chosen on."""
        family, number = piece.removeprefix("rate-").rsplit("-", 1)
        found = self.found(RATE_SEED)
        assigned = self.assigned(family, found, RATE_SEED)
        rate = self.settings.rates[int(number)]
        return try_rate(self.base(), family, found, settings=self.settings, rate=rate, assigned=assigned)

    def assigned(self, family: str, found: Materials, seed: int) -> list[int]:
        """Return the part of each passage, for families of parts."""
        if family == "clusters":
            return find_clusters(found, seed)["assigned"]
        return random_parts(found, seed) if family == "random" else []

    def parts(self, place: Place) -> PieceResult:
        """Return the seed's random parts and discovered clusters."""
        found = self.found(place.number)
        return {"random": random_parts(found, place.number), "clusters": find_clusters(found, place.number)}

    def train(self, name: str, place: Place) -> PieceResult:
        """Return what one model cost, after keeping it."""
        family = next(each for each in FAMILIES if name in member_names(each, self.names))
        parts = place.done["parts"]
        assigned = {"random": parts["random"], "clusters": parts["clusters"]["assigned"]}.get(family, [])
        found = self.found(place.number)
        return keep_trained(self.base(), place, family, name, found, settings=self.settings, assigned=assigned)

    def growth(self, place: Place) -> PieceResult:
        """Return what it takes to add and remove an expert: seconds, changed files, changed answers."""
        base, experts = self.base(), Library(family_folder(place, "experts"), base=self.base())
        library = Library(place.folder / "growth", base=base)
        for name in library.names():
            library.remove(name)
        old, new = self.names[:-1], self.names[-1]
        for name in old:
            library.add(experts[name])
        text = few_rows(self.found(place.number).text, self.settings.scoring_batch)
        before, files = answers(base, library, text), digests(library)
        add_seconds = timed(lambda: (library.add(experts[new]), answers(base, library, first_row(text))))
        during = digests(library)
        mix_seconds = timed(lambda: answers(base, library.filter(old), first_row(text)))
        remove_seconds = timed(lambda: (library.remove(new), answers(base, library, first_row(text))))
        return {
            "changed_files": sum(during.get(path) != digest for path, digest in files.items()),
            "largest_change_after_removal": same_answers(before, answers(base, library, text)),
            "add_seconds": place.done[f"train-{new}"]["seconds"] + add_seconds,
            "mix_seconds": mix_seconds,
            "remove_seconds": remove_seconds,
            "retrain_seconds": place.done["train-dense"]["seconds"],
        }

    def table(self, place: Place) -> PieceResult:
        """Return how long the one table took; it lies beside as safetensors, with the scores of token and merge."""
        base, text = self.base(), self.found(place.number).text
        casts = self.casts(place)
        voices = SlotVoices(base, {name: key for cast in casts.values() for name, key in cast.keys.items()})
        started = time.perf_counter()
        names = (BASE, *(name for name in voices.keys if name != "dense-token"))
        found = fill_table(voices, text, names, batch=self.settings.scoring_batch)
        merged = casts["experts"].merged({name: 1 / len(self.names) for name in self.names})
        tensors = {
            "log_probs": found.log_probs,
            "dense-token": token_scores(voices, text, self.names, batch=self.settings.scoring_batch),
            "merge uniform": score_text(merged, text, batch=self.settings.scoring_batch),
        }
        write_bytes(place.folder / _TABLE, save({name: each.contiguous() for name, each in tensors.items()}))
        return {"voices": list(names), "seconds": time.perf_counter() - started}

    def casts(self, place: Place) -> dict[str, Cast]:
        """Return every library of the seed, attached to the base."""
        folders = {family: family_folder(place, family) for family in ("experts", "random", "clusters", "dense")}
        return {family: assemble(self.base(), Library(path, base=self.base())) for family, path in folders.items()}

    def speed(self, place: Place) -> PieceResult:
        """Return milliseconds a token of the base and of 1, 2 and all experts' rows, and the memory of each."""
        base, cast = self.base(), self.casts(place)["experts"]
        text = few_rows(self.found(place.number).text, _TIMED_WINDOWS)
        voices, tokens = cast.voices(), int(text.lengths.sum())
        result: dict[str, Any] = {"process_mb": resident_bytes() / 1e6, "base_mb": base.memory_bytes / 1e6}
        for label, names in {"0": (BASE,), **{str(k): self.names[:k] for k in (1, 2, len(self.names))}}.items():
            choice = Choice(tuple(names))
            result[f"ms_{label}"] = measure_ms(
                functools.partial(voices.score, text.tokens, choice, lengths=text.lengths), tokens
            )
        return result

    def judged(self, place: Place) -> PieceResult:
        """Return the numbers of all claims and the perplexities of all models."""
        base, found = self.base(), self.found(place.number)
        tensors = load_file(place.folder / _TABLE)
        table = TokenTable(found.text, tuple(place.done["table"]["voices"]), tensors["log_probs"])
        judge = Judge(
            table,
            self.names,
            tuple(domain.name for domain in self.texts().unseen),
            {family: member_names(family, self.names) for family in FAMILIES},
            self.shelves(place, found),
            base.tokenizer,
            {name: each for name, each in tensors.items() if name != "log_probs"},
        )
        return {
            "metrics": metrics(judge),
            "perplexity": perplexity_rows(judge),
            "counted_tokens": int(found.text.counted.sum()),
            "learning_rates": {family: chosen_rate(family, place.done, self.settings) for family in FAMILIES},
        }

    def shelves(self, place: Place, found: Materials) -> dict[str, Library]:
        """Return the libraries of domain and cluster experts, with their cluster routers fitted on training text."""
        base = self.base()
        shelves = {family: Library(family_folder(place, family), base=base) for family in ("experts", "clusters")}
        documents = [each for domain in found.passages.values() for each in domain]
        clusters = discover(documents, len(self.names), seed=place.number)
        texts = {name: [each.plain for each in passages] for name, passages in found.passages.items()}
        fit_cluster(shelves["experts"], clusters=clusters, documents_by_expert=texts)
        fit_discovered(shelves["clusters"], clusters=clusters, experts=member_names("clusters", self.names))
        return shelves
