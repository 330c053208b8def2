"""Laws of pruned ensembles in the engine: rows leave and come back, and nobody gets other tokens than alone."""

from dataclasses import replace

import pytest
import torch
from engine_cases import GREEDY, NAMES, Case, add, alone, cases, keys, same

from collegium.compose import Ensemble, Mix, SlotVoices
from collegium.compose.pruned import PrunedRows
from collegium.core.errors import RoutingError
from collegium.infer import Engine, EngineLimits, Finished, Sampling, generate
from collegium.models import Base, Seat
from collegium.ops import pruning
from collegium.routers import fixed, posterior
from collegium.testing.pico import pico_base, random_adapter


@pytest.fixture(scope="module")
def base() -> Base:
    made = pico_base()
    for seed, name in enumerate(NAMES):
        made.attach(name, random_adapter(made, seed + 1, rank=2 + seed, layers="top:1" if seed == 1 else "all"))
    return made


def pruned(base, epsilon):
    return Ensemble(SlotVoices(base, keys()), posterior().bind(NAMES), prune=epsilon)


def texts(base):
    """Texts that one expert writes, or one and then another."""
    found = []
    for place, (first, then) in enumerate([("law", "law"), ("code", "verse"), ("verse", "law")]):
        text = [place]
        for name in (first, then):
            voice = Mix(base, keys(), fixed({name: 1.0}).bind(NAMES))
            text += generate(voice, [text], sampling=Sampling(tokens=24), seed=place)[0].tokens
        found.append(tuple(text))
    return found


def requests(base, *, tokens=70):
    """Requests of pruned ensembles, and a few of something else among them."""
    every = []
    for number, text in enumerate(texts(base)):
        for epsilon, length in ((0.4, 16), (0.05, 37)):
            model = pruned(base, epsilon)
            sampling = Sampling(tokens=tokens, temperature=1.4) if length != 37 else replace(GREEDY, tokens=tokens)
            every.append(Case(model, model, text[:length], sampling, number))
    return [*every[:2], *cases(base, 3), *every[2:]]


class Watched:
    """Counts rows that leave and come back in the engine."""

    def __init__(self, monkeypatch):
        self.left = self.back = 0
        split, join = Seat.split_each, Seat.join

        def leaving(seat, groups):
            self.left += sum(map(len, groups))
            return split(seat, groups)

        def returning(seat, other, texts=None):
            self.back += other.rows.count
            return join(seat, other, texts)

        monkeypatch.setattr(Seat, "split_each", leaving)
        monkeypatch.setattr(Seat, "join", returning)


@pytest.mark.parametrize("limits", [EngineLimits(), EngineLimits(rows=7, prompt_tokens=9)], ids=["wide", "narrow"])
def test_pruned_ensembles_say_what_they_say_alone(base, monkeypatch, limits):
    """Arrivals at every step, some of them while others' experts leave or come back, which takes little here."""
    monkeypatch.setattr(pruning, "SURPRISE_DEVIATIONS", 0.3)
    monkeypatch.setattr(pruning, "SURPRISED_BLOCKS", 1)
    monkeypatch.setattr(pruning, "LEAST_BLOCKS", 2)
    every, engine, found = requests(base), Engine(base, limits=limits), {}
    watched, coming, numbers = Watched(monkeypatch), list(every), []
    while coming or engine.busy:
        if coming:
            numbers.append(add(engine, coming.pop(0)))
        found |= {event.request: event.generation for event in engine.step() if isinstance(event, Finished)}
        assert sum(each.most_rows for each in engine._placed) <= limits.rows
    assert watched.left > watched.back > 0
    for number, case in zip(numbers, every, strict=True):
        want = alone(case)
        same(found[number], want)
        if found[number].shares:
            torch.testing.assert_close(torch.tensor(found[number].shares), torch.tensor(want.shares), atol=1e-3, rtol=0)


def test_a_pruned_ensemble_that_is_cancelled_takes_its_rows_along(base):
    every, engine = requests(base, tokens=30)[:4], Engine(base)
    numbers = [add(engine, case) for case in every]
    for _ in range(20):
        engine.step()
    cancelled = engine.cancel(numbers[0])
    assert cancelled.tokens == alone(every[0]).tokens[: len(cancelled.tokens)]
    assert cancelled.experts == NAMES
    found = engine.run()
    for number, case in zip(numbers[1:], every[1:], strict=True):
        if number in found:
            same(found[number], alone(case))


def test_settling_before_rows_have_read_would_break_the_law(base, monkeypatch):
    monkeypatch.setattr(pruning, "SURPRISE_DEVIATIONS", 0.3)
    monkeypatch.setattr(pruning, "SURPRISED_BLOCKS", 1)
    monkeypatch.setattr(pruning, "LEAST_BLOCKS", 2)
    monkeypatch.setattr(PrunedRows, "waiting", property(lambda rows: False))
    engine = Engine(base)
    for case in requests(base):
        add(engine, case)
    with pytest.raises(RoutingError, match="rows join a text at its end"):
        asking_for_the_routing(engine)


def asking_for_the_routing(engine):
    """Run, asking between the steps for what is known when rows have settled."""
    while engine.busy:
        engine.step()
        for each in engine._placed:
            assert each.experts in ((), NAMES)
