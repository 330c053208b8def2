"""The pieces of an experiment on reward models: each model is fitted once a seed, kept, and judged once."""

import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from collegium.claims.experiment import PieceResult, Place
from collegium.claims.reward_continue import continued
from collegium.claims.reward_setup import PLANS, RATE_SEED, Plan, RewardSettings, draw_pairs, seen_of
from collegium.data.preferences import PairCorpus
from collegium.library import Library
from collegium.models import Base
from collegium.rewards import DESIGNS, Making, drop, grow, judge_corpus, open_reward
from collegium.rewards.designs import fit_one, fit_one_whole
from collegium.rewards.records import RewardRecord


@dataclass(frozen=True)
class RewardWork:
    """Computes the pieces of one experiment.

    base, other: the base of a seed, and the other one. corpus: all pairs of a seed's domains, or more.
    """

    settings: RewardSettings
    base: Callable[[int], Base]
    other: Callable[[int], Base]
    corpus: Callable[[int], PairCorpus]

    def run(self, piece: str, place: Place) -> PieceResult:
        """Return one piece's result."""
        stage, _, name = piece.partition(".")
        if stage == "rate":
            model, number = name.rsplit(".", 1)
            return self.rate(model, int(number), place)
        stages: dict[str, Callable[[str, Place], PieceResult]] = {
            "fit": self.fit,
            "member": self.member,
            "found": self.found,
            "grow": self.grow,
            "continue": self.continued,
            "judge": self.judge,
        }
        return stages[stage](name, place)

    def rate(self, name: str, number: int, place: Place) -> PieceResult:
        """Return what one learning rate gives a model on the one seed they are chosen on: its judges' mean dev loss."""
        rate = self.settings.rates[PLANS[name].trained][number]
        with tempfile.TemporaryDirectory() as folder, self.opened(name, RATE_SEED) as base:
            making = self.making(name, base, Path(folder), place.done, seed=RATE_SEED, rate=rate)
            DESIGNS[PLANS[name].design].fit(making).save(making.library, name)
            losses = [each["dev_loss"] for part, each in making.figures.items() if is_judge(part, name)]
            active = open_reward(base, making.library, name).parameters_active
        return {"rate": rate, "loss": sum(losses) / len(losses), "active": active}

    def fit(self, name: str, place: Place) -> PieceResult:
        """Return what a model that is fitted in one go cost, after keeping it."""
        with self.opened(name, place.number) as base:
            making = self.kept(name, base, place)
            if name in making.library.model_names():  # an earlier run stopped between keeping it and noting its cost
                making.library.remove(name)
            started = time.perf_counter()
            DESIGNS[PLANS[name].design].fit(making).save(making.library, name)
            seconds = time.perf_counter() - started
            active = open_reward(base, making.library, name).parameters_active
        return {"seconds": seconds, "pairs": pairs_of(making), "active": active, "rank": making.config.rank}

    def member(self, name: str, place: Place) -> PieceResult:
        """Return what an old domain's judge of a growing model cost, after keeping it."""
        design, domain = name.split(".")
        with self.opened(design, place.number) as base:
            making = self.kept(design, base, place)
            if making.member(domain) in making.library:
                making.library.remove(making.member(domain))
            started = time.perf_counter()
            fit_judge = fit_one_whole if design == "rodos" else fit_one
            fit_judge(making, making.corpus[domain])
        return {"seconds": time.perf_counter() - started, "pairs": pairs_of(making)}

    def found(self, name: str, place: Place) -> PieceResult:
        """Return a growing model's accuracy on the old domains, once its judges of these have a router."""
        with self.opened(name, place.number) as base:
            making = self.kept(name, base, place)
            making = replace(making, corpus=making.corpus.only(self.settings.old))
            DESIGNS[PLANS[name].design].fit(making).save(making.library, name)
            return {"accuracy": self.accuracy(name, base, making)}

    def grow(self, name: str, place: Place) -> PieceResult:
        """Return what it took to add the new domain."""
        with self.opened(name, place.number) as base:
            making = self.kept(name, base, place)
            if self.settings.new in RewardRecord.load(making.library, name).domains:
                drop(making, self.settings.new)  # an earlier run stopped between growing and noting its cost
            return grow(making).to_dict()

    def continued(self, name: str, place: Place) -> PieceResult:
        """Return the accuracy of a joint model of the old domains that goes on with the new one alone."""
        with self.opened(name, place.number) as base:
            making = self.kept(f"{name}-old", base, place)
            expert = making.library[making.member("joint")]
            domain = self.drawn(place.number)[self.settings.new]
            started = time.perf_counter()
            trained = continued(base, expert, domain, config=making.config, name=f"{name}-continued")
            seconds = time.perf_counter() - started
            with tempfile.TemporaryDirectory() as folder:
                library = Library(Path(folder) / "library", base=base)
                library.add(trained)
                after = replace(making, library=library, corpus=self.drawn(place.number))
                return {"seconds": seconds, "accuracy": self.accuracy(trained.name, base, after)}

    def judge(self, name: str, place: Place) -> PieceResult:
        """Return what a model is worth on the pairs it was not fitted on, beside what words alone tell."""
        with self.opened(name, place.number) as base:
            making = self.kept(name, base, place)
            verdict = self.verdict(name, base, making, self.drawn(place.number))
        kept = ("accuracy", "floor", "router_accuracy", "parameters_resident", "parameters_active", "matrix", "pairs")
        return {key: verdict[key] for key in kept}

    def accuracy(self, name: str, base: Base, making: Making) -> dict[str, float]:
        """Return the accuracy of a model by domain of its making's corpus."""
        return self.verdict(name, base, making, making.corpus)["accuracy"]

    def verdict(self, name: str, base: Base, making: Making, corpus: PairCorpus) -> dict[str, Any]:
        """Return all figures of a model on the test pairs of a corpus."""
        model = open_reward(base, making.library, name)
        seen = seen_of(corpus, self.settings.config)
        return judge_corpus(model, corpus, seen=seen, most=self.settings.judged).to_dict()

    def drawn(self, seed: int) -> PairCorpus:
        """Return a seed's pairs."""
        return draw_pairs(self.corpus(seed), self.settings, seed)

    @contextmanager
    def opened(self, name: str, seed: int) -> Iterator[Base]:
        """Give the base that a model stands on; what was attached to it meanwhile is taken off again."""
        base = (self.other if PLANS[name].other else self.base)(seed)
        try:
            yield base
        finally:
            for key in base.attached:
                base.detach(key)

    def kept(self, name: str, base: Base, place: Place) -> Making:
        """Return the making of a seed's model, with its chosen learning rate."""
        rated = PLANS[name].rated_as or name
        tried = [place.done[f"rate.{rated}.{number}"] for number in self.numbers(rated)]
        rate = min(tried, key=lambda each: each["loss"])["rate"] if tried else None
        return self.making(name, base, place.folder, place.done, seed=place.number, rate=rate)

    def numbers(self, name: str) -> range:
        """Return the numbers of the learning rates that a model chooses from."""
        return range(len(self.settings.rates[PLANS[name].trained]) if name in self.settings.tuned else 0)

    def making(
        self, name: str, base: Base, folder: Path, done: Mapping[str, PieceResult], *, seed: int, rate: float | None
    ) -> Making:
        """Return the making of a model in a library of its own."""
        plan, settings = PLANS[name], self.settings
        corpus = self.drawn(seed)
        config = replace(settings.config, seed=seed, learning_rate=rate, rank=self.rank(plan, base, done))
        if plan.everything:
            config = replace(config, train_pairs=0, passes=10.0)
        library = Library(folder / name, base=base)
        options = replace(settings.options, size=plan.size)
        some = corpus.only(settings.old) if name.endswith("-old") else corpus
        return Making(base, library, some, name, config=config, options=options)

    def rank(self, plan: Plan, base: Base, done: Mapping[str, PieceResult]) -> int:
        """Return a model's rank: the settings', or for a wide one as much as makes it as active as MoRE."""
        rank = self.settings.config.rank
        if not plan.wide:
            return rank
        joint, more = (active_of(name, done) for name in ("joint", "more"))
        return equal_rank(rank, joint, more, base=base)


def equal_rank(rank: int, joint: int, more: int, *, base: Base) -> int:
    """Return the least rank at which a joint adapter of `rank` is as active as MoRE, given what both read with."""
    backbone = sum(each.numel() for each in base.inner.parameters())
    head = int(base.config.hidden_size)
    a_rank = (joint - backbone - head) // rank
    return max(rank, -(-(more - backbone - head) // a_rank))


def active_of(name: str, done: Mapping[str, PieceResult]) -> int:
    """Return how many numbers a model reads a text with, as an earlier piece found."""
    key = f"fit.{name}" if f"fit.{name}" in done else f"rate.{name}.0"
    return int(done[key]["active"])


def is_judge(part: str, name: str) -> bool:
    """Return whether a member is a judge and not a router."""
    return not part.removeprefix(f"{name}-").startswith("router") and part != "router"


def pairs_of(making: Making) -> int:
    """Return how many training pairs a making's members read."""
    return sum(int(each.get("pairs", 0)) for each in making.figures.values())
