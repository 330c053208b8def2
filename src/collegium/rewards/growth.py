"""Domains that come and go: a new judge is fitted alone, a leaving one dropped, and the router refreshed from memory.

No other judge is touched: rewards of prompts that keep their route are the same to the last bit. What changes is the
router, and the report says how many of the prompts it remembers go to another judge than before.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch

from collegium.core.errors import ConfigError, DataError, LibraryError
from collegium.core.tables import nearest
from collegium.data.preferences import PairCorpus, PairDomain
from collegium.rewards.designs import (
    DESIGNS,
    fit_one,
    fit_one_whole,
    open_reward,
    routing_of,
    with_adapter_router,
    with_classifier,
)
from collegium.rewards.fit import Lesson
from collegium.rewards.making import Making
from collegium.rewards.model import RewardModel
from collegium.rewards.records import RewardRecord
from collegium.rewards.router_fit import PromptMemory
from collegium.rewards.routers import ABSTAIN, choices, in_parts
from collegium.rewards.texts import Encoder, TextBatch


@dataclass(frozen=True)
class Growth:
    """What came of a change.

    moved:     remembered dev prompts of each domain that stayed -> how many of them have another judge (or none alone)
               than before, and how many there are. seconds: it took.
    pairs, prompts: examples that were read to make the new judges, and the router.
    """

    domains: tuple[str, ...]
    came: tuple[str, ...]
    left: tuple[str, ...]
    moved: Mapping[str, tuple[int, int]]
    seconds: float
    pairs: int
    prompts: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain values."""
        return {
            "domains": list(self.domains),
            "came": list(self.came),
            "left": list(self.left),
            "moved": {name: {"moved": moved, "of": count} for name, (moved, count) in self.moved.items()},
            "seconds": self.seconds,
            "pairs": self.pairs,
            "prompts": self.prompts,
        }


def grow(making: Making) -> Growth:
    """Add the domains of `making.corpus` that the reward model lacks; nothing else of it changes but its router.

    Raises LibraryError for a design that does not grow, DataError when it has all of the domains already.
    """
    start, (record, new) = time.perf_counter(), newcomers(making)
    fit = fit_one_whole if record.design == "rodos" else fit_one
    making = replace(making, corpus=PairCorpus(new), figures={})
    judges = {**record.judges, **{each.name: fit(making, each).name for each in new}}
    added = making.memory(new)
    memory = remembered(making, record)
    for each in new:
        memory = memory.with_domain(each.name, added)
    return _refreshed(making, record, judges, memory, came=tuple(each.name for each in new), start=start)


def newcomers(making: Making) -> tuple[RewardRecord, tuple[PairDomain, ...]]:
    """Return the record of a reward model that can grow, and the domains that it lacks, which can all be learnt from.

    Raises what `grow` raises for a design, domains or pairs that cannot be; nothing is made.
    """
    record = growing(making)
    new = tuple(each for each in making.corpus if each.name not in record.domains)
    if not new:
        raise DataError(
            f"reward model {making.name!r} has all of these domains already: {', '.join(making.corpus.names)}. Give "
            "the pairs of a new one."
        )
    encoder = Encoder(making.base, making.config.text_tokens)
    for each in new:
        Lesson.of([each], encoder, making.config)
    return record, new


def drop(making: Making, domain: str) -> Growth:
    """Take a domain out of the reward model: its judge goes, and the router is fitted on the others' prompts.

    making.corpus is not looked at. Raises LibraryError for the last two domains (a router tells at least two apart),
    ConfigError for a domain that it does not have.
    """
    start, record = time.perf_counter(), growing(making)
    if domain not in record.domains:
        raise ConfigError(f"reward model {making.name!r} has no domain {domain!r}. {nearest(domain, record.domains)}")
    if len(record.domains) == 2:
        (other,) = (each for each in record.domains if each != domain)
        raise LibraryError(
            f"reward model {making.name!r} has two domains, and a router needs two to choose between. Use the other's "
            f"judge by itself (LIB#{record.judges[other]}), or remove all: `collegium library remove {making.name}`."
        )
    memory = remembered(making, record).without(domain)
    judges = {name: expert for name, expert in record.judges.items() if name != domain}
    return _refreshed(making, record, judges, memory, left=(domain,), start=start)


def growing(making: Making) -> RewardRecord:
    """Return the record of a reward model that can grow; raises LibraryError for one that cannot."""
    record = RewardRecord.load(making.library, making.name)
    if not DESIGNS[record.design].grows:
        told = "its experts and its router are one network" if record.design == "more" else "it has one judge of all"
        raise LibraryError(
            f"reward model {making.name!r} is of design {record.design}: {told}, so no domain comes or goes without "
            "fitting it again. Designs that grow are arliss and rodos."
        )
    return record


def remembered(making: Making, record: RewardRecord) -> PromptMemory:
    """Return the prompts that a reward model's routing remembers."""
    tensors, _ = routing_of(making.library, record, making.name)
    return PromptMemory.from_tensors(tensors, record.domains, where=f"router {record.router!r}")


def _refreshed(
    making: Making,
    record: RewardRecord,
    judges: Mapping[str, str],
    memory: PromptMemory,
    *,
    came: tuple[str, ...] = (),
    left: tuple[str, ...] = (),
    start: float,
) -> Growth:
    """Fit the router on a memory, keep the new record, and take away what the old one alone needed."""
    constants = record.constants
    options = replace(
        making.options,
        threshold=float(constants["threshold"]),
        features=constants.get("features", making.options.features),
    )
    making = replace(making, generation=int(constants.get("generation", 1)) + 1, options=options)
    before = open_reward(making.base, making.library, making.name)
    old = {name: routes_of(before, memory.dev[name]) for name in memory.domains if name in record.domains}
    fit = with_classifier if record.design == "rodos" else with_adapter_router
    fresh = fit(making, judges, memory)
    fresh.save(making.library, making.name)
    after = open_reward(making.base, making.library, making.name)
    moved = {name: _moved(old[name], routes_of(after, memory.dev[name])) for name in old}
    for name in set(record.members) - set(fresh.members):
        making.library.remove(name, keep_descendants=True)
    if record.router is not None:
        making.library.remove(record.router)
    seconds = time.perf_counter() - start
    prompts = sum(len(each) for part in (memory.train, memory.dev) for each in part.values())
    pairs = sum(int(each.get("pairs", 0)) for each in making.figures.values())
    return Growth(fresh.domains, came, left, moved, seconds, pairs, prompts)


def routes_of(model: RewardModel, prompts: TextBatch) -> tuple[str, ...]:
    """Return whose judge each prompt gets, the empty name where the router abstains."""
    assert model.router is not None
    with torch.no_grad():
        chosen = choices(in_parts(model.router, prompts).cpu(), model.threshold)
    return tuple("" if each == ABSTAIN else model.domains[each] for each in chosen.tolist())


def _moved(old: tuple[str, ...], new: tuple[str, ...]) -> tuple[int, int]:
    return sum(before != after for before, after in zip(old, new, strict=True)), len(old)
