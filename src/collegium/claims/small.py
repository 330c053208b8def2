"""The small-scale experiment: one set of trained models a seed, one table, and the numbers of twelve claims.

Trained at equal tokens on four domains of real text with the default base: four domain experts, a dense model of the
same rank, one of four times the rank (equal trainable parameters), one that is told the domain, four experts of random
parts, four of discovered clusters. The uniform merge costs no training. Learning rates are chosen once, on one seed,
on held-out text, three for each family.
"""

import dataclasses
import functools
import time
from collections.abc import Callable

from safetensors.torch import load_file, save

from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.claims.small_growth import answers, digests, first_of_each, same_answers, some_rows, timed, token_scores
from collegium.claims.small_measure import Judge, metrics, perplexity_rows
from collegium.claims.small_rows import measured, rows
from collegium.claims.small_setup import Materials, SmallSettings, SmallTexts, materials
from collegium.claims.small_speed import timed_models
from collegium.claims.small_train import (
    FAMILIES,
    RATE_SEED,
    Assigned,
    chosen_rate,
    family_folder,
    find_clusters,
    keep_trained,
    member_names,
    random_parts,
    rate_piece,
    try_rate,
)
from collegium.claims.small_workers import compare_workers
from collegium.compose import Cast, SlotVoices, assemble
from collegium.core.files import write_bytes
from collegium.core.routing import BASE
from collegium.data import Domain, discover
from collegium.infer import TokenTable, fill_table, nats_per_token, score_text
from collegium.library import Library
from collegium.models import Base
from collegium.recipes.columns import measure_ms
from collegium.routers import fit_cluster, fit_discovered

_TABLE = "table.safetensors"
_TIMED_WINDOWS = 4
"""All of the first domain."""


def small_experiment(
    settings: SmallSettings, names: tuple[str, ...], *, base: Callable[[], Base], texts: Callable[[], SmallTexts]
) -> Experiment:
    """Return the experiment over the domains `names`; base and texts are opened when the first piece needs them."""
    work = Work(settings, names, functools.cache(base), functools.cache(texts))
    members = [(family, name) for family in FAMILIES for name in member_names(family, names)]
    return Experiment(
        pieces=("parts", *(f"train-{name}" for _, name in members), "growth", "table", "speed", "workers", "judged"),
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
        return {**stages, "workers": self.workers, "judged": self.judged}[piece](place)

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

    def assigned(self, family: str, found: Materials, seed: int) -> Assigned:
        """Return the part of each text, for families of parts."""
        if family == "clusters":
            return find_clusters(found, seed)[0]
        return random_parts(found, seed) if family == "random" else Assigned()

    def parts(self, place: Place) -> PieceResult:
        """Return how the seed's discovered clusters agree with the domains."""
        return {"nmi": find_clusters(self.found(place.number), place.number)[1]}

    def train(self, name: str, place: Place) -> PieceResult:
        """Return what one model cost, after keeping it."""
        family = next(each for each in FAMILIES if name in member_names(each, self.names))
        found = self.found(place.number)
        assigned = self.assigned(family, found, place.number)
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
        everything = self.found(place.number).text
        text, asked = first_of_each(everything, self.names), first_of_each(everything, (new,))
        before, files = answers(base, library, text), digests(library)
        answered = answers(base, library, asked)
        add_seconds = timed(lambda: (library.add(experts[new]), answers(base, library, asked)))
        during, better = digests(library), answers(base, library, asked)
        mix_seconds = timed(lambda: answers(base, library.filter(old), asked))
        remove_seconds = timed(lambda: (library.remove(new), answers(base, library, asked)))
        return {
            "answer_gain": nats_per_token(answered, asked, new) - nats_per_token(better, asked, new),
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
        """Return milliseconds a token of every model, each run by itself, and how many experts a text is run through.

        Timed are a few windows of the first domain, which all models read.
        """
        found, casts = self.found(place.number), self.casts(place)
        text = some_rows(found.text, range(_TIMED_WINDOWS))
        runs = timed_models(casts, self.shelves(place, found), text, kept=self.names[:2])
        tokens = int(text.lengths.sum())
        return {
            "base_mb": self.base().memory_bytes / 1e6,
            "ms": {name: measure_ms(run, tokens) for name, (run, _) in runs.items()},
            "evaluated": {name: count() for name, (_, count) in runs.items()},
        }

    def workers(self, place: Place) -> PieceResult:
        """Return what two processes take against one for short fits of all domains' experts."""
        found, settings = self.found(place.number), self.settings
        domains = [Domain(name, passages) for name, passages in found.passages.items()]
        rate = chosen_rate("experts", place.done, settings)
        config = settings.fit(seed=place.number, rate=rate, steps=settings.workers_steps)
        return compare_workers(self.base(), domains, config)

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
        clusters = discover(found.all_passages, len(self.names), seed=place.number)
        texts = {name: [each.plain for each in passages] for name, passages in found.passages.items()}
        fit_cluster(shelves["experts"], clusters=clusters, documents_by_expert=texts)
        fit_discovered(shelves["clusters"], clusters=clusters, experts=member_names("clusters", self.names))
        return shelves
