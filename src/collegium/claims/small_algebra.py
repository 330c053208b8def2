"""The small-scale experiment on arithmetic: modules of halves of a domain, of a task, and what becomes of their sums.

A seed makes nine modules of one rank on the default base: of the first half, the second half and all of the text of
each of two domains and of a task on the first domain, all from the same first weights, and once more of each second
half from other ones. Nothing is chosen but the analogy's weight, on dev text.
"""

import dataclasses
import functools
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.claims.experiment import Experiment, PieceResult, Place
from collegium.claims.small_algebra_measure import MADE, MERGED, measured, rows
from collegium.claims.small_algebra_setup import AlgebraSettings, Reader, feature_share, feature_tokens
from collegium.claims.small_growth import some_rows
from collegium.claims.small_setup import SmallTexts
from collegium.compose import Ensemble, SlotVoices
from collegium.core.routing import BASE
from collegium.experts import AdapterPayload, fit_documents
from collegium.experts.algebra import (
    Delta,
    analogy,
    compress,
    delta_of_adapter,
    negated_factor,
    parameterwise_sum,
    weighted_sum,
)
from collegium.infer import HeldOut, Sampling, fill_table, generate, nats_per_token
from collegium.library import Library
from collegium.models import Base, LoraWeights, RowPlan
from collegium.routers import uniform

START, OTHER_START = "start", "other-start"
"""Labels under which first weights are drawn; they also decide the order in which a module reads its text."""
Module = Mapping[str, LoraWeights]


def algebra_experiment(
    settings: AlgebraSettings, *, base: Callable[[], Base], texts: Callable[[], SmallTexts]
) -> Experiment:
    """Return the experiment; base and texts are opened when the first piece needs them."""
    work = AlgebraWork(settings, functools.cache(base), functools.cache(texts))
    plain = {
        name: list(each) if isinstance(each, tuple) else each for name, each in dataclasses.asdict(settings).items()
    }
    return Experiment(
        pieces=(*(f"train-{name}" for name in module_names(settings)), "halves", "negated", "written", "analogy"),
        run=work.run,
        measure=measured,
        rows=rows,
        settings=plain,
    )


def module_names(settings: AlgebraSettings) -> tuple[str, ...]:
    """Return the names of a seed's modules."""
    halves = [f"{domain}-{which}" for domain in settings.pair for which in ("first", "second", "other", "whole")]
    return (*halves, "task")


@dataclasses.dataclass(frozen=True)
class AlgebraWork:
    """Computes the pieces of the experiment."""

    settings: AlgebraSettings
    base: Callable[[], Base]
    texts: Callable[[], SmallTexts]

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one piece's result."""
        if piece.startswith("train-"):
            return self.train(piece.removeprefix("train-"), place)
        stages = {"halves": self.halves, "negated": self.negated, "written": self.written, "analogy": self.analogy}
        return stages[piece](place)

    def reader(self, seed: int) -> Reader:
        """Return what draws a seed's texts."""
        return Reader(self.texts(), self.base().tokenizer, self.settings, seed)

    def train(self, name: str, place: Place) -> PieceResult:
        """Return what one module cost, after keeping it."""
        base, reader = self.base(), self.reader(place.number)
        domain, _, which = name.rpartition("-")
        if name == "task":
            texts = reader.task_texts()
        else:
            texts = reader.module_texts(domain, "second" if which == "other" else which)
        steps = self.settings.steps * (2 if which in ("whole", "task") else 1)
        started = time.perf_counter()
        trained = fit_documents(
            base,
            texts.train,
            dev=texts.dev,
            config=self.settings.fit(seed=place.number, steps=steps),
            name=name,
            label=OTHER_START if which == "other" else START,
        )
        seconds = time.perf_counter() - started
        library = Library(place.folder / "modules", base=base)
        if name in library:  # an earlier run was interrupted between keeping the module and noting its cost
            library.remove(name)
        library.add(trained.expert)
        losses = [each.loss for each in trained.history.evaluations]
        return {
            "before": losses[0],
            "after": losses[-1],
            "tokens": trained.expert.card.tokens_seen,
            "seconds": seconds,
        }

    def module(self, name: str, place: Place) -> Module:
        """Return a kept module's factors."""
        payload = Library(place.folder / "modules", base=self.base())[name].payload
        assert isinstance(payload, AdapterPayload)
        return {path: part for path, part in payload.adapter.items() if isinstance(part, LoraWeights)}

    def halves(self, place: Place) -> PieceResult:
        """Return, on held-out text of each domain, the loss of its modules and of their merges."""
        text, nats = self.reader(place.number).held_out(), {}
        for domain in self.settings.pair:
            first, second, other, whole = (
                self.module(f"{domain}-{which}", place) for which in ("first", "second", "other", "whole")
            )
            merges = [merge(first, each) for each in (second, other) for merge in (halfway, halfway_changes)]
            spoken = dict(zip((*MADE[1:], *MERGED), (first, second, whole, *merges), strict=True))
            nats[domain] = self.losses(of_domain(text, domain), {BASE: None, **spoken})[domain]
        return {"nats": nats}

    def losses(self, text: HeldOut, spoken: Mapping[str, Module | None]) -> dict[str, dict[str, float]]:
        """Return domain -> model -> loss; None is the base."""
        with speaking(self.base(), spoken) as voices:
            table = fill_table(voices, text, tuple(spoken), batch=self.settings.scoring_batch)
        return {
            domain: {name: nats_per_token(table.column(name), text, domain) for name in spoken}
            for domain in text.domain_names
        }

    def subtracted(self, place: Place) -> dict[str, Module | None]:
        """Return the base without so much of the target's module, by the strength; nothing less is the base."""
        whole = self.module(f"{self.settings.target}-whole", place)
        return {
            f"{strength:g}" if strength else BASE: negated_factor(whole, factor="a", scale=strength)
            if strength
            else None
            for strength in self.settings.strengths
        }

    def negated(self, place: Place) -> PieceResult:
        """Return losses of every domain, and the words' mean probability on the target's text, by strength."""
        text, spoken, target = self.reader(place.number).held_out(), self.subtracted(place), self.settings.target
        nats = {name: list(each.values()) for name, each in self.losses(text, spoken).items()}
        others = [values for name, values in nats.items() if name != target]
        return {
            "target": target,
            "strengths": list(self.settings.strengths),
            "nats": nats,
            "own_nats": nats[target],
            "general_nats": [sum(values) / len(others) for values in zip(*others, strict=True)],
            "mass": self.masses(of_domain(text, target), spoken),
        }

    def masses(self, text: HeldOut, spoken: Mapping[str, Module | None]) -> list[float]:
        """Return, for each model, the mean probability at counted places that one of the words comes next."""
        base = self.base()
        ids = torch.tensor(feature_tokens(base.tokenizer, base.vocab_size, self.settings.feature))
        rows = torch.arange(len(text.domains)).split(self.settings.scoring_batch)
        with speaking(base, spoken) as voices:
            found = [
                [next_mass(base, some_rows(text, row.tolist()), voices.keys.get(name, BASE), ids) for row in rows]
                for name in spoken
            ]
        return [float(torch.cat(each).mean()) for each in found]

    def written(self, place: Place) -> PieceResult:
        """Return the words' rate in texts written from the same prompts with the same draws, by strength."""
        settings = self.settings
        text = of_domain(self.reader(place.number).held_out(), settings.target)
        prompts = [row[: settings.context].tolist() for row in text.tokens] * settings.samples
        sampling = Sampling(tokens=settings.sample_tokens, temperature=1.0)
        rates, spoken = [], self.subtracted(place)
        with speaking(self.base(), spoken) as voices:
            for name in spoken:
                model = self.base() if name == BASE else Ensemble(voices, uniform().bind((name,)))
                said = generate(model, prompts, sampling=sampling, seed=place.number)
                rates.append(feature_share([each.text for each in said], settings.feature))
        return {"rates": rates, "texts": len(prompts)}

    def analogy(self, place: Place) -> PieceResult:
        """Return losses on the target's task of the source's module, scaled and not, and of the analogy."""
        settings, reader = self.settings, self.reader(place.number)
        task, source, target = (
            delta_of_adapter(self.module(name, place))
            for name in ("task", f"{settings.source}-whole", f"{settings.target}-whole")
        )
        made = {
            "analogy": lambda weight: analogy(task, source, target, weight=weight),
            "task of source, scaled": lambda weight: weight * task,
        }
        tried = {f"{name} {a:g}": adapter_of(make(a)) for name, make in made.items() for a in settings.weights}
        found = self.losses(reader.target_task("dev"), tried)[settings.target]
        chosen = {name: min(settings.weights, key=lambda a: found[f"{name} {a:g}"]) for name in made}
        judged = {
            BASE: None,
            "target's language": adapter_of(target),
            "task of source": adapter_of(task),
            **{name: adapter_of(make(chosen[name])) for name, make in made.items()},
            "analogy, equal parts": adapter_of(made["analogy"](0.5)),
        }
        nats = self.losses(reader.target_task("test"), judged)[settings.target]
        return {"nats": nats, "chosen": chosen, "dev_nats": found}


def halfway(one: Module, two: Module) -> Module:
    """Return A and B halfway between those of two modules  [zhang2023composing]."""
    return parameterwise_sum([one, two], [0.5, 0.5])


def halfway_changes(one: Module, two: Module) -> Module:
    """Return half the sum of two modules' changes."""
    return adapter_of(weighted_sum([delta_of_adapter(one), delta_of_adapter(two)], [0.5, 0.5]))


def adapter_of(delta: Delta) -> Module:
    """Return a change's factors side by side: nothing is lost."""
    return {path: part for path, part in compress(delta).adapter.items() if isinstance(part, LoraWeights)}


def of_domain(text: HeldOut, domain: str) -> HeldOut:
    """Return a domain's windows alone."""
    return some_rows(text, torch.nonzero(text.of(domain)).flatten().tolist())


def next_mass(base: Base, text: HeldOut, key: str, ids: Int[Tensor, " token"]) -> Float[Tensor, " place"]:
    """Return the probability, before each counted token, that one of these tokens comes next."""
    log_probs = base.logprobs_rows(text.tokens, plan=RowPlan.one(key))[0, :, :-1]
    return log_probs[text.counted[:, 1:].to(log_probs.device)][:, ids].double().exp().sum(-1).cpu()


@contextmanager
def speaking(base: Base, spoken: Mapping[str, Module | None]) -> Iterator[SlotVoices]:
    """Let modules speak as voices inside the `with`; None is the base, which needs no place of its own."""
    keys = {name: f"algebra {number}" for number, (name, each) in enumerate(spoken.items()) if each is not None}
    try:
        for name, key in keys.items():
            base.attach(key, spoken[name] or {})
        yield SlotVoices(base, keys)
    finally:
        for key in keys.values():
            if key in base.attached:
                base.detach(key)
