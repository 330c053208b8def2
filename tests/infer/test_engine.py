"""Laws of the engine: a request gets what it gets alone, whoever else is there; nothing is read twice; limits hold."""

from dataclasses import dataclass, replace

import pytest
import torch

from collegium.compose import Ensemble, GatedMix, JoinedVoices, Mix, SeparateVoices, SlotVoices, mix
from collegium.core.cards import ExpertCard
from collegium.core.errors import BaseModelError, ConfigError, DataError, ResourceError, RoutingError, UnknownName
from collegium.core.routing import Routing
from collegium.experts import Expert, adapter_payload
from collegium.infer import Engine, EngineLimits, Finished, Said, Sampling, generate
from collegium.infer.engine import lanes, requests
from collegium.library import Library
from collegium.models import Base, RowDecoding
from collegium.routers import arrow, fixed, posterior, uniform
from collegium.routers.gates import HeadGates
from collegium.routers.gates.xlora import fresh_head
from collegium.testing.pico import pico_base, random_adapter

NAMES = ("law", "code", "verse")
GREEDY = Sampling(tokens=12, temperature=0.0)


class ByToken:
    """All weight on the expert that the last token names: a router along the text that needs no likelihoods."""

    experts, needs_likelihoods, growth = NAMES, False, "exact"

    def start(self, context):
        return ()

    def step(self, state, tokens, log_likelihoods):
        return Routing(NAMES, torch.nn.functional.one_hot(tokens.clamp(min=0) % 3, 3).float()), state


@pytest.fixture(scope="module")
def base() -> Base:
    made = pico_base()
    for seed, name in enumerate(NAMES):
        made.attach(name, random_adapter(made, seed + 1, rank=2 + seed, layers="all" if seed else "top:1"))
    return made


@dataclass(frozen=True)
class Case:
    """A request, and a language model that is the same by another way."""

    asked: object
    model: object
    prompt: tuple[int, ...]
    sampling: Sampling
    seed: int


def keys():
    return {name: name for name in NAMES}


def cases(base, many=16, sampled=True):
    """Requests with experts, blends, routers, settings, seeds and prompt lengths of their own."""
    one = {name: Mix(base, keys(), fixed({name: 1.0}).bind(NAMES)) for name in NAMES}
    blend = Mix(base, keys(), fixed({"law": 0.25, "verse": 0.5}).bind(NAMES))
    held = Mix(base, keys(), posterior().bind(NAMES))
    along = Mix(base, keys(), ByToken())
    voices = SlotVoices(base, keys())
    mixed, few = Ensemble(voices, posterior().bind(NAMES)), Ensemble(voices, uniform().bind(NAMES), top_k=2)
    kinds = [
        ("base", base),
        ("law", one["law"]),
        (mixed, mixed),
        ({"law": 0.25, "verse": 0.5}, blend),
        (along, along),
        ("code", one["code"]),
        (few, few),
        (held, held),
        ("verse", one["verse"]),
        (base, base),
        (Ensemble(voices, ByToken()), Ensemble(voices, ByToken())),
    ]
    settings = [
        Sampling(tokens=11),
        GREEDY,
        Sampling(tokens=9, temperature=1.3, top_k=7),
        Sampling(12, 0.7, 0, 0.9, 1.2),
    ]
    draw = torch.Generator().manual_seed(5)
    made = []
    for number in range(many):
        asked, model = kinds[number % len(kinds)]
        length = (3, 17, 8, 1, 30)[number % 5]
        prompt = tuple(torch.randint(0, 250, (length,), generator=draw).tolist())
        made.append(Case(asked, model, prompt, settings[number % 4] if sampled else GREEDY, number % 3))
    return made


def alone(case):
    return generate(case.model, [case.prompt], sampling=case.sampling, seed=case.seed)[0]


def add(engine, case):
    return engine.add_request(case.prompt, model=case.asked, sampling=case.sampling, seed=case.seed)


def same(found, want):
    assert found.tokens == want.tokens
    assert found.ended == want.ended
    assert found.text == want.text
    assert found.log_prob == pytest.approx(want.log_prob, abs=1e-4 * len(want.tokens))
    assert found.experts == want.experts or not found.experts


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
        (RoutingError, "a head .* reads every text twice", lambda base: {"model": headed(base)}),
    ],
)  # fmt: skip
def test_what_cannot_be_served_is_refused_when_it_is_asked(base, error, match, asked):
    engine = Engine(base, limits=EngineLimits(rows=2, cache_tokens=64))
    with pytest.raises(error, match=match):
        engine.add_request(**({"prompt": [1]} | asked(base)))
    assert not engine.busy


def three(base):
    return Ensemble(SlotVoices(base, keys()), posterior().bind(NAMES))


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
