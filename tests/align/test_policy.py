"""Policies that are adapters: equal to their original at first, one network in all that is read and drawn."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch

from collegium.align.config import AlignConfig
from collegium.align.draws import Drawing, Draws, as_prompt, draw
from collegium.align.features import regex
from collegium.align.fit import align
from collegium.align.policy import AdapterPolicy
from collegium.align.target import Constraint, Target, solved
from collegium.compose import ensemble, mix
from collegium.compose.wearing import Wearable
from collegium.core.cards import ExpertCard
from collegium.core.randomness import generator
from collegium.experts import Expert, adapter_payload
from collegium.experts.recipe import FitConfig, resolve
from collegium.library import Library
from collegium.models import Base
from collegium.routers import fixed, posterior
from collegium.testing.pico import pico_base, random_adapter, random_expert

CONFIG = resolve(FitConfig(rank=4, layers="top:1"))
MODELS: dict[str, Callable[[Base, Library], Wearable]] = {
    "base": lambda base, library: base,
    "mix": lambda base, library: mix(base, library, router=fixed({"a": 0.7, "b": 0.3})),
    "ensemble": lambda base, library: ensemble(base, library, router=posterior()),
}


@pytest.fixture
def library(tmp_path) -> Library:
    base = pico_base()
    library = Library(tmp_path / "library", base=base)
    for seed, name in enumerate("ab"):
        library.add(random_expert(base, seed, name=name))
    return library


@pytest.fixture
def upper(tmp_path) -> Library:
    """Experts that leave the first block as it is."""
    base = pico_base()
    library = Library(tmp_path / "upper", base=base)
    for seed, name in enumerate("ab"):
        own = {path: each for path, each in random_adapter(base, seed).items() if base.sites[path].block}
        library.add(Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint), adapter_payload(base, own)))
    return library


def drawn(model: Wearable, many: int = 6) -> Draws:
    prompts = [as_prompt("Once", model), as_prompt("To be, or", model)]
    return draw(model, prompts * (many // 2), drawing=Drawing(tokens=6), random=generator(0, "policy"))


def shaken(policy: AdapterPolicy, size: float = 0.3) -> AdapterPolicy:
    with torch.no_grad():
        for number, weight in enumerate(policy.weights.values()):
            weight += size * torch.randn(weight.shape, generator=generator(number, "shaken"))
    return policy


@pytest.mark.parametrize("name", MODELS)
def test_a_fresh_policy_says_what_the_original_says(name: str, library: Library) -> None:
    model = MODELS[name](pico_base(), library)
    policy, draws = AdapterPolicy.fresh(model, CONFIG), drawn(model)
    torch.testing.assert_close(draws.log_prob(policy.speaker()), draws.log_prob(model), atol=1e-4, rtol=0)
    torch.testing.assert_close(draws.log_prob(model), draws.log_proposal, atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_learnt_from_is_what_speaks(name: str, library: Library) -> None:
    model = MODELS[name](pico_base(), library)
    policy = shaken(AdapterPolicy.fresh(model, CONFIG))
    draws = drawn(policy.speaker())
    said = draws.log_prob(policy.speaker())
    assert float((said - draws.log_prob(model)).abs().max()) > 0.1
    torch.testing.assert_close(policy.learn(draws).detach().double().sum(-1), said, atol=1e-4, rtol=0)
    torch.testing.assert_close(draws.log_proposal, said, atol=1e-4, rtol=0)


def test_reading_over_a_shared_trunk_changes_nothing_and_runs_it_once() -> None:
    base = pico_base()
    policy = shaken(AdapterPolicy.fresh(base, CONFIG))
    draws, calls = drawn(base), []
    plain = policy.learn(draws), draws.log_prob(base)
    handle = base.blocks[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    with policy.reading(draws):
        calls.clear()
        shared = policy.learn(draws), draws.log_prob(base)
        assert not calls
    handle.remove()
    for one, other in zip(plain, shared, strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("name", MODELS)
def test_states_noted_while_drawing_are_those_of_reading(name: str, upper: Library) -> None:
    model = MODELS[name](pico_base(), upper)
    policy = shaken(AdapterPolicy.fresh(model, CONFIG))
    assert policy.trunk is not None
    prompts = [as_prompt("Once", model), as_prompt("To be, or", model)] * 3
    ends = frozenset(range(0, 256, 3))
    drawing = Drawing(tokens=6, batch=4, ends=ends)
    draws = draw(policy.speaker(), prompts, drawing=drawing, random=generator(3, "noted"), trunk=policy.trunk)
    assert len(set(draws.lengths.tolist())) > 2
    if name == "ensemble":  # two rows a text enter there, so that nothing is noted
        assert draws.trunk is None
        return
    assert draws.trunk is not None
    plain = policy.trunk.states(draws.tokens)
    place = torch.arange(draws.tokens.shape[1])
    read = place < draws.lengths[:, None] - 1
    torch.testing.assert_close(draws.trunk[read], plain[read], atol=1e-5, rtol=0)
    assert not draws.trunk[~read].any()
    bare = replace(draws, trunk=None)
    with policy.reading(draws):
        noted_scores = draws.log_prob(policy.speaker())
    with policy.reading(bare):
        read_scores = draws.log_prob(policy.speaker())
    torch.testing.assert_close(noted_scores, read_scores, atol=1e-4, rtol=0)
    few = draws.take(torch.tensor([4, 1]))
    assert torch.equal(few.trunk, draws.trunk[[4, 1], : few.tokens.shape[1]])


def test_a_model_that_reads_more_than_its_texts_notes_nothing(monkeypatch) -> None:
    base = pico_base()
    policy = AdapterPolicy.fresh(base, CONFIG)
    plain = base.open

    def curious(prompts):
        base.hidden(torch.zeros(1, 2, dtype=torch.long))
        return plain(prompts)

    monkeypatch.setattr(base, "open", curious)
    prompts, random = [as_prompt("Once", base)] * 2, generator(0, "curious")
    assert draw(base, prompts, drawing=Drawing(tokens=3), random=random, trunk=policy.trunk).trunk is None


def test_a_twin_goes_its_own_way_until_it_is_brought_up_to_date() -> None:
    base = pico_base()
    policy = AdapterPolicy.fresh(base, CONFIG)
    twin, draws = policy.twin(), drawn(base)
    shaken(policy)
    assert not torch.allclose(draws.log_prob(twin.speaker()), draws.log_prob(policy.speaker()))
    twin.load(policy.weights)
    assert torch.equal(draws.log_prob(twin.speaker()), draws.log_prob(policy.speaker()))
    before = base.attached
    policy.close()
    assert len(base.attached) == len(before) - 2


@pytest.mark.parametrize(
    ("name", "method", "updates", "rate"),
    [
        ("base", "gdc++", 12, 2e-2),
        ("mix", "gdc++", 12, 2e-2),
        ("ensemble", "gdc++", 12, 2e-2),
        ("base", "ppo", 24, 5e-3),
    ],
)
def test_an_adapter_is_moved_towards_a_constraint(
    name: str, method: str, updates: int, rate: float, library: Library
) -> None:
    model = MODELS[name](pico_base(), library)
    prompt = as_prompt("Once", model)
    pool = draw(model, [prompt] * 512, drawing=Drawing(tokens=4, batch=512), random=generator(1, "pool"))
    aim = solved(Target(model, (Constraint(regex("[a-h]")),)), pool)
    config = AlignConfig(method=method, samples=updates * 64, tokens=4, learning_rate=rate, warmup=0.0, beta=0.02)
    policy = AdapterPolicy.fresh(model, CONFIG)
    align(policy, aim, [prompt], config=config)
    kept = pool.take((aim.target.values(pool.samples)['regex("[a-h]")'] == 1).nonzero()[:, 0])
    assert float((kept.log_prob(policy.speaker()) - kept.log_prob(model)).mean()) > 0.05
