"""Laws of the engine: requests may leave, wait and be refused; lanes, limits and libraries."""

from dataclasses import replace

import pytest
import torch
from engine_cases import GREEDY, NAMES, Case, add, alone, cases, keys, same

from collegium.compose import Ensemble, GatedMix, JoinedVoices, Mix, SeparateVoices, SlotVoices, mix
from collegium.core.cards import ExpertCard
from collegium.core.errors import BaseModelError, ConfigError, DataError, ResourceError, RoutingError, UnknownName
from collegium.experts import Expert, adapter_payload
from collegium.infer import Engine, EngineLimits, Finished, Sampling, generate
from collegium.library import Library
from collegium.models import Base
from collegium.routers import arrow, fixed, posterior, uniform
from collegium.routers.gates import HeadGates
from collegium.routers.gates.xlora import fresh_head
from collegium.testing.pico import pico_base, random_adapter


@pytest.fixture(scope="module")
def base() -> Base:
    made = pico_base()
    for seed, name in enumerate(NAMES):
        made.attach(name, random_adapter(made, seed + 1, rank=2 + seed, layers="all" if seed else "top:1"))
    return made


def test_cancelled_requests_leave_at_once_and_change_nobody(base):
    every, engine = cases(base), Engine(base, limits=EngineLimits(rows=9))
    numbers = [add(engine, case) for case in every]
    engine.step()
    told = {}
    for event in engine.step():
        told[event.request] = event
    before = engine.live
    assert engine.waiting
    cancelled = engine.cancel(numbers[2])
    last = engine.cancel(numbers[-1])
    assert cancelled.ended == last.ended == "cancelled"
    assert cancelled.tokens == alone(every[2]).tokens[:2]
    assert last.tokens == ()
    assert engine.live == before - 1
    found = engine.run()
    assert set(found) == set(numbers) - {numbers[2], numbers[-1]}
    for number, case in zip(numbers, every, strict=True):
        if number in found:
            same(found[number], alone(case))
    assert engine.stats.most_rows <= 9
    assert engine.stats.cancelled == 2
    with pytest.raises(UnknownName, match=f"no request {numbers[0]}"):
        engine.cancel(numbers[0])


def test_a_request_is_cancelled_while_its_prompt_is_read(base):
    engine = Engine(base, limits=EngineLimits(prompt_tokens=4))
    first = engine.add_request([1, 2], sampling=GREEDY)
    engine.step()
    gone, stays = engine.add_request(list(range(20))), engine.add_request(list(range(9)), sampling=GREEDY)
    engine.step()
    assert engine.live == 3
    assert engine.cancel(gone).tokens == ()
    found = engine.run()
    assert found[stays].tokens == generate(base, [list(range(9))], sampling=GREEDY)[0].tokens
    assert found[first].tokens == generate(base, [[1, 2]], sampling=GREEDY)[0].tokens


def test_models_on_other_bases_run_in_lanes_of_their_own(base):
    merged, engine = base.folded({"law": 0.5, "code": 0.5}), Engine(base)
    numbers = [engine.add_request("to be", model=model, sampling=GREEDY) for model in (merged, "law", "base")]
    found = engine.run()
    assert found[numbers[0]].tokens == generate(merged, "to be", sampling=GREEDY)[0].tokens
    assert found[numbers[2]].tokens == generate(base, "to be", sampling=GREEDY)[0].tokens
    assert found[numbers[1]].tokens != found[numbers[2]].tokens


def test_what_is_told_adds_up_to_what_was_written(base):
    engine = Engine(base)
    case = replace(cases(base)[2], sampling=Sampling(tokens=30, stop=("zz",)))
    number, told = add(engine, case), []
    while engine.busy:
        told += engine.step()
    *said, finished = told
    assert isinstance(finished, Finished)
    assert tuple(event.token for event in said) == finished.generation.tokens
    assert "".join(event.text for event in said) == finished.generation.text
    assert said[0].shares.keys() == set(NAMES)
    assert {event.request for event in told} == {number}


def test_limits_make_requests_wait_in_their_order(base):
    engine = Engine(base, limits=EngineLimits(rows=2, cache_tokens=60, waiting=3))
    numbers = [engine.add_request([5, n], sampling=replace(GREEDY, tokens=10)) for n in range(3)]
    with pytest.raises(ResourceError, match="3 requests wait already"):
        engine.add_request([1])
    ends = []
    while engine.busy:
        ends += [event.request for event in engine.step() if isinstance(event, Finished)]
        assert engine.live <= 2
    assert ends == numbers


@pytest.mark.parametrize(
    ("error", "match", "asked"),
    [
        (ResourceError, "costs 3 rows, the limit is 2", lambda base: {"model": three(base)}),
        (ResourceError, "cache exhausted: 1 rows of up to 101 tokens", lambda base: {"sampling": Sampling(tokens=100)}),
        (BaseModelError, "at most 512 tokens, the prompt has 512", lambda base: {"prompt": [1] * 512}),
        (DataError, "lie between 0 and", lambda base: {"prompt": [1, 10**6]}),
        (DataError, "the prompt is empty", lambda base: {"prompt": ""}),
        (UnknownName, "Did you mean 'code'", lambda base: {"model": "cod"}),
        (RoutingError, "finite weights", lambda base: {"model": {"law": float("nan")}}),
        (RoutingError, "voices with weights of their own", lambda base: {"model": outside(base)}),
        (ResourceError, "costs 3 rows, the limit is 2", lambda base: {"model": three(base, prune=0.1)}),
        (RoutingError, "a head .* reads every text twice", lambda base: {"model": headed(base)}),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_when_it_is_asked(base, error, match, asked):
    engine = Engine(base, limits=EngineLimits(rows=2, cache_tokens=64))
    with pytest.raises(error, match=match):
        engine.add_request(**({"prompt": [1]} | asked(base)))
    assert not engine.busy


def three(base, prune=0.0):
    return Ensemble(SlotVoices(base, keys()), posterior().bind(NAMES), prune=prune)


def outside(base):
    voices = JoinedVoices([SlotVoices(base, keys()), SeparateVoices({"whole": pico_base(3)})])
    return Ensemble(voices, uniform().bind(("law", "whole")))


def headed(base):
    return GatedMix(base, keys(), HeadGates(NAMES, fresh_head(base, len(NAMES), width=4, scale="softmax", seed=0)))


def test_impossible_limits_are_told_at_once():
    with pytest.raises(ConfigError, match=r"rows must be at least 1, got 0. waiting must be at least 1, got -1."):
        EngineLimits(rows=0, waiting=-1)


def test_idle_steps_do_nothing(base):
    engine = Engine(base)
    assert engine.step() == []
    assert engine.run() == {}
    assert engine.stats.steps == 0


@pytest.fixture
def library(tmp_path):
    made = Library(tmp_path / "library", base=pico_base())
    for seed, name in enumerate(NAMES):
        card = ExpertCard(name=name, kind="lora", base=made.base.fingerprint, domain=name)
        made.add(Expert(card, adapter_payload(made.base, random_adapter(made.base, seed, rank=2 + seed))))
    return made


def test_a_librarys_experts_and_gates_run_beside_each_other(library):
    """Requests through the same gates share a batch, one of them coming late; others do not meet the gates."""
    base, gated = library.base, mix(library.base, library, router=arrow(top_k=2))
    law = Mix(base, gated.keys, fixed({"law": 1.0}).bind(NAMES))
    every = [
        Case(gated, gated, tuple(range(9)), GREEDY, 0),
        Case("law", law, tuple(range(5)), GREEDY, 0),
        Case(gated, gated, (7, 8), Sampling(tokens=9), 3),
    ]
    engine = Engine(base, library)
    numbers = [add(engine, case) for case in every[:2]]
    told = engine.step() + engine.step()
    assert len(told) == 4
    numbers.append(add(engine, every[2]))
    found = engine.run()
    for number, case in zip(numbers, every, strict=True):
        want = alone(case)
        same(found[number], want)
        if found[number].shares:
            torch.testing.assert_close(torch.tensor(found[number].shares), torch.tensor(want.shares), atol=1e-4, rtol=0)
    with pytest.raises(UnknownName):
        engine.add_request("to be", model="lew")
