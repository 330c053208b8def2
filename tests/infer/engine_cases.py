"""Requests for the engine, each with the model that says the same by another way."""

from dataclasses import dataclass

import pytest
import torch

from collegium.compose import Ensemble, Mix, SlotVoices
from collegium.core.routing import Routing
from collegium.infer import Sampling, generate
from collegium.routers import fixed, posterior, uniform

NAMES = ("law", "code", "verse")
GREEDY = Sampling(tokens=12, temperature=0.0)


class ByToken:
    """All weight on the expert that the last token names: a router along the text that needs no likelihoods."""

    experts, needs_likelihoods, growth = NAMES, False, "exact"

    def start(self, context):
        return ()

    def step(self, state, tokens, log_likelihoods):
        return Routing(NAMES, torch.nn.functional.one_hot(tokens.clamp(min=0) % 3, 3).float()), state


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
