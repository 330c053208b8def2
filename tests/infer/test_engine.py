"""Laws of the engine: a request gets what it gets alone, whoever else is there; nothing is read twice; limits hold."""

from dataclasses import replace

import pytest
import torch
from engine_cases import GREEDY, NAMES, ByToken, Case, add, alone, cases, keys, same

from collegium.compose import Mix
from collegium.infer import Engine, EngineLimits, Finished, Said, Sampling
from collegium.infer.engine import lanes, requests
from collegium.models import Base, RowDecoding
from collegium.testing.pico import pico_base, random_adapter


@pytest.fixture(scope="module")
def base() -> Base:
    made = pico_base()
    for seed, name in enumerate(NAMES):
        made.attach(name, random_adapter(made, seed + 1, rank=2 + seed, layers="all" if seed else "top:1"))
    return made


@pytest.mark.parametrize("sampled", [False, True], ids=["greedy", "sampled"])
def test_together_each_gets_what_it_gets_alone(base, sampled):
    every, engine = cases(base, sampled=sampled), Engine(base)
    numbers = [add(engine, case) for case in every]
    found = engine.run()
    assert not engine.busy
    for number, case in zip(numbers, every, strict=True):
        want = alone(case)
        same(found[number], want)
        if found[number].shares:
            torch.testing.assert_close(torch.tensor(found[number].shares), torch.tensor(want.shares), atol=1e-3, rtol=0)


@pytest.mark.parametrize("limits", [EngineLimits(), EngineLimits(rows=5, prompt_tokens=7)], ids=["wide", "narrow"])
def test_whoever_comes_late_changes_nobody(base, limits):
    """Arrivals at every step, while some read long prompts in parts and others end."""
    every, engine, found = cases(base), Engine(base, limits=limits), {}
    coming, numbers = list(every), []
    while coming or engine.busy:
        if coming:
            numbers.append(add(engine, coming.pop(0)))
        found |= {event.request: event.generation for event in engine.step() if isinstance(event, Finished)}
    for number, case in zip(numbers, every, strict=True):
        same(found[number], alone(case))
    assert engine.stats.most_rows <= limits.rows
    assert engine.stats.mixed > 0


def test_one_stream_for_everybody_would_break_the_law(base, monkeypatch):
    shared, plain = torch.Generator().manual_seed(0), requests.draw
    monkeypatch.setattr(
        requests, "draw", lambda said, writing, *rest: plain(said, replace(writing, random=shared), *rest)
    )
    every, engine = cases(base), Engine(base)
    numbers = [add(engine, case) for case in every]
    found = engine.run()
    assert [found[number].tokens for number in numbers] != [alone(case).tokens for case in every]


class Counter:
    """Counts the tokens that really run through a base: what its mask hides is not counted."""

    def __init__(self, base):
        self.tokens, self.widths = 0, []
        self.handle = base.inner.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        ids, mask = kwargs["input_ids"], kwargs.get("attention_mask")
        self.tokens += ids.numel() if mask is None else int(mask[:, -ids.shape[1] :].sum())
        self.widths.append(ids.shape[1])


def counted(base, limits, every):
    counter, engine = Counter(base), Engine(base, limits=limits)
    for case in every[:9]:
        add(engine, case)
    engine.step()
    for case in every[9:]:
        add(engine, case)
    found = engine.run()
    counter.handle.remove()
    assert all(each.tokens for each in found.values())
    return counter, engine.stats


def weighs(model):
    """Whether a blend is decided by reading the prompt with every expert first."""
    return isinstance(model, Mix) and model.router.needs_likelihoods


def test_nothing_is_read_twice(base):
    every = cases(base)
    counter, stats = counted(base, EngineLimits(prompt_tokens=7), every)
    prompts = sum(len(case.prompt) for case in every)
    held = sum(
        len(case.prompt) for case in every if isinstance(case.model, Mix) and case.model.router.needs_likelihoods
    )
    again = sum(len(alone(case).tokens) - 1 for case in every)
    assert stats.prompt_tokens == stats.read_tokens == prompts
    assert stats.deciding_tokens == held
    assert stats.new_tokens == again
    assert counter.tokens == prompts + held + again


def test_opening_everybody_anew_would_break_the_law(base, monkeypatch):
    plain = lanes.Lane._join

    def anew(self, opened, chosen):
        prompts = [request.writing.prompt for request in chosen]
        plain(self, RowDecoding(chosen[0].asked.base, prompts, lanes.seat_rows([each.seat for each in chosen])), chosen)

    every = cases(base)
    honest, _ = counted(base, EngineLimits(), every)
    monkeypatch.setattr(lanes.Lane, "_join", anew)
    twice, _ = counted(base, EngineLimits(), every)
    assert twice.tokens == honest.tokens + sum(len(case.prompt) for case in every)


def test_a_long_prompt_does_not_keep_the_others_waiting(base):
    """While others speak a step reads no more of a prompt than the limit; they get their token all the same."""
    every = cases(base, 11)
    draw = torch.Generator().manual_seed(8)
    long = [replace(case, prompt=tuple(torch.randint(0, 250, (60,), generator=draw).tolist())) for case in every]
    engine, counter = Engine(base, limits=EngineLimits(prompt_tokens=9)), Counter(base)
    early = engine.add_request([1, 2, 3], sampling=Sampling(tokens=200, temperature=0.0))
    engine.step()
    wanted = [case for case in long if not weighs(case.model)]
    numbers = [add(engine, case) for case in wanted]
    counter.widths.clear()
    found = {}
    for _ in range(60):
        events = engine.step()
        assert any(isinstance(event, Said) and event.request == early for event in events)
        found |= {event.request: event.generation for event in events if isinstance(event, Finished)}
    assert max(counter.widths) <= 9
    counter.handle.remove()
    found |= engine.run()
    for number, case in zip(numbers, wanted, strict=True):
        same(found[number], alone(case))


@pytest.mark.parametrize("kind", range(11))
def test_a_prompt_read_in_parts_is_read_the_same(base, kind):
    case = replace(cases(base, 11)[kind], prompt=tuple(range(40, 80)))
    engine = Engine(base, limits=EngineLimits(prompt_tokens=6))
    other = engine.add_request([7], sampling=Sampling(tokens=30, temperature=0.0))
    engine.step()
    number = add(engine, case)
    found = engine.run()
    same(found[number], alone(case))
    assert len(found[other].tokens) == 30


def test_weights_by_position_stand_beside_longer_prompts(base):
    """The blend of a short prompt ends where that prompt ends, whatever is read with it."""
    engine = Engine(base)
    short = Case(Mix(base, keys(), ByToken()), Mix(base, keys(), ByToken()), (1, 2, 3), GREEDY, 0)
    number, other = add(engine, short), engine.add_request(list(range(40)), model="law", sampling=GREEDY)
    found = engine.run()
    same(found[number], alone(short))
    assert len(found[other].tokens) == GREEDY.tokens


def test_prompts_of_like_length_are_read_together(base):
    """Twelve prompts of two lengths far apart are two forwards, each as wide as its own."""
    counter, engine = Counter(base), Engine(base)
    for number in range(12):
        engine.add_request([number] * (4 + 40 * (number % 2)), sampling=GREEDY)
    engine.step()
    counter.handle.remove()
    assert counter.widths == [4, 44]
    assert engine.stats.read_tokens == engine.stats.prompt_tokens == 6 * 48
