"""Ensembles, mixes and merges of small bases keep the laws; broken ones are caught."""

import pytest
import torch

from collegium.compose import Choice, Ensemble, JoinedVoices, Mix, SeparateVoices, SlotVoices, combine, live_rows
from collegium.core.errors import RoutingError
from collegium.core.protocols import LanguageModel, RouterRecipe
from collegium.core.routing import Routing
from collegium.models import KINDS, Base
from collegium.models.slots import slots
from collegium.models.tail import Tail
from collegium.routers import fixed, posterior, uniform
from collegium.testing.composition import check_composition, check_mixture
from collegium.testing.language_model import check_language_model
from collegium.testing.pico import random_adapter, random_base
from collegium.testing.tiny import TinyLM, bigram_lm

NAMES = ("law", "code", "chat")


def with_adapters(architecture: str = "llama", layers="all", kinds=("lora", "lora", "lora")) -> Base:
    base = random_base(architecture)
    for place, (name, kind) in enumerate(zip(NAMES, kinds, strict=True)):
        base.attach(name, random_adapter(base, place, layers=layers, kind=kind))
    return base


def alone(base: Base) -> dict[str, LanguageModel]:
    voices = {name: Mix(base, {name: name}, fixed({name: 1.0}).bind((name,))) for name in NAMES}
    return {**voices, "base": base}


def keys() -> dict[str, str]:
    return {name: name for name in NAMES}


def toys() -> dict[str, TinyLM]:
    return {name: bigram_lm(place, symbols=7) for place, name in enumerate((*NAMES, "base"))}


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox", "qwen3", "gemma3"])
def test_ensembles_on_slots_keep_the_laws(architecture):
    base = with_adapters(architecture)

    def compose(recipe: RouterRecipe) -> LanguageModel:
        return Ensemble(SlotVoices(base, keys()), recipe.bind(NAMES))

    check_composition(compose, alone(base))
    check_mixture(compose, alone(base))


@pytest.mark.recipe
@pytest.mark.parametrize(
    ("kind", "architecture"), [*((kind, "llama") for kind in KINDS if kind != "lora"), ("several", "gpt2")]
)
def test_ensembles_and_mixes_of_every_kind_keep_the_laws(kind, architecture):
    base = with_adapters(architecture, kinds=("ia3", "ffn", "prefix") if kind == "several" else (kind,) * 3)

    def ensembled(recipe: RouterRecipe) -> LanguageModel:
        return Ensemble(SlotVoices(base, keys()), recipe.bind(NAMES))

    check_composition(ensembled, alone(base))
    check_mixture(ensembled, alone(base))
    check_composition(lambda recipe: Mix(base, keys(), recipe.bind(NAMES)), alone(base))


@pytest.mark.parametrize("layers", ["all", "top:1"])
def test_mixes_keep_the_laws(layers):
    base = with_adapters("llama", layers)
    check_composition(lambda recipe: Mix(base, keys(), recipe.bind(NAMES)), alone(base))


def test_ensembles_of_separate_models_keep_the_laws():
    models = toys()

    def compose(recipe: RouterRecipe) -> LanguageModel:
        return Ensemble(SeparateVoices(models), recipe.bind(NAMES))

    check_composition(compose, models)
    check_mixture(compose, models)


def test_joined_voices_answer_like_separate_ones():
    models = toys()
    left = SeparateVoices({name: models[name] for name in ("code", "base")})
    right = SeparateVoices({name: models[name] for name in ("law", "chat")})
    joined, flat = JoinedVoices([left, right]), SeparateVoices(models)
    tokens = torch.randint(0, 7, (2, 6), generator=torch.Generator().manual_seed(0))
    for choice in (Choice(NAMES), Choice(NAMES, torch.tensor([[2, 0], [1, 2]]))):
        assert torch.equal(joined.score(tokens, choice, lengths=None), flat.score(tokens, choice, lengths=None))
        assert torch.equal(joined.logprobs(tokens, choice, lengths=None), flat.logprobs(tokens, choice, lengths=None))
        rows, wanted = joined.open([[1, 2], [3]], choice), flat.open([[1, 2], [3]], choice)
        assert torch.equal(rows.prompt_scores(), wanted.prompt_scores())
        for part in (rows, wanted):
            part.step(torch.tensor([4, 5]))
            part.keep(torch.tensor([1]))
        assert torch.equal(rows.logprobs(), wanted.logprobs())


def forwards(bases):
    """Return a list that grows by a name with every forward of one of these bases."""
    seen: list[str] = []
    for name, base in bases.items():
        base.inner.register_forward_pre_hook(lambda *_, name=name: seen.append(name))
    return seen


def test_whole_models_read_a_prompt_once_and_score_it_as_ever():
    bases = {"law": random_base("llama", 1), "code": random_base("llama", 2)}
    voices, toy = SeparateVoices(bases), bigram_lm(0, symbols=bases["law"].vocab_size)
    prompts, choice = [[1, 2, 3, 4], [5, 6]], Choice(("code", "law"))
    tokens, lengths = torch.tensor([[1, 2, 3, 4], [5, 6, 0, 0]]), torch.tensor([4, 2])
    wanted = voices.score(tokens, choice, lengths=lengths)
    seen = forwards(bases)
    Ensemble(voices, posterior().bind(("law", "code"))).open(prompts)
    assert sorted(seen) == ["code", "law"]
    rows = voices.open(prompts, choice)
    torch.testing.assert_close(rows.prompt_scores(), wanted, atol=1e-5, rtol=0)
    rows.keep(torch.tensor([1]))
    torch.testing.assert_close(rows.prompt_scores(), wanted[1:], atol=1e-5, rtol=0)
    mixed = SeparateVoices({**bases, "toy": toy}).open(prompts, Choice(("toy", "law")))
    mixed.keep(torch.tensor([1]))
    want = torch.stack([toy.score(tokens, lengths=lengths), wanted[..., 1]], dim=-1)[1:]
    torch.testing.assert_close(mixed.prompt_scores(), want, atol=1e-5, rtol=0)


def test_only_a_router_that_weighs_likelihoods_pays_for_the_prompts_output_layer(monkeypatch):
    positions, plain = [], Tail.__call__

    def counted(self, hidden):
        positions.append(hidden.reshape(-1, hidden.shape[-1]).shape[0])
        return plain(self, hidden)

    voices = SlotVoices(with_adapters(), keys())
    scored = []
    monkeypatch.setattr(Tail, "__call__", counted)
    for recipe in (uniform(), posterior()):
        opened = Ensemble(voices, recipe.bind(("law", "code"))).open([[1] * 50])
        assert opened.next_logprobs().shape == (1, voices.vocab_size)
        assert torch.equal(opened.next_logprobs(), opened.next_logprobs()), "asked for again, computed once"
        scored.append(sum(positions))
        positions.clear()
    assert scored == [2, 2 + 2 * 49]


class ByToken:
    """All weight on the expert that the last token names: a router along the text that needs no likelihoods."""

    experts, needs_likelihoods, growth = NAMES, False, "exact"

    def start(self, context):
        return ()

    def step(self, state, tokens, log_likelihoods):
        return Routing(NAMES, torch.nn.functional.one_hot(tokens.clamp(min=0) % 3, 3).float()), state


def test_a_mix_along_the_text_stacks_its_experts_once_and_stays_exact(monkeypatch):
    base = with_adapters()
    model = Mix(base, keys(), ByToken())
    tokens = torch.randint(0, 200, (2, 16), generator=torch.Generator().manual_seed(4))
    full = model.logprobs(tokens)
    stacked, plain = [], slots.make_plan
    monkeypatch.setattr(slots, "make_plan", lambda *args, **more: (stacked.append(1), plain(*args, **more))[1])
    opened = model.open(tokens[:, :1].tolist())
    for step in range(15):
        torch.testing.assert_close(opened.next_logprobs(), full[:, step], atol=1e-4, rtol=0)
        if step == 8:
            stacked.clear()
        opened.step(tokens[:, step + 1])
    assert stacked == []
    assert {*tokens[0].tolist()} != {*tokens[1].tolist()}


def test_a_mix_computes_the_output_layer_for_scored_tokens_alone(monkeypatch: pytest.MonkeyPatch):
    base, counted = with_adapters(), []
    plain = Tail.__call__
    monkeypatch.setattr(Tail, "__call__", lambda self, hidden: counted.append(len(hidden)) or plain(self, hidden))
    tokens = torch.randint(0, 200, (2, 9), generator=torch.Generator().manual_seed(1))
    model = Mix(base, keys(), uniform().bind(NAMES))
    model.score(tokens, lengths=torch.tensor([9, 7]), context=torch.tensor([5, 3]))
    assert sum(counted) == 4 + 4


def test_a_text_is_computed_by_its_own_experts_alone():
    weights = torch.tensor([[[0.0, 1.0, 0.0]], [[0.0, 0.0, 1.0]]])
    rows = live_rows(Routing(NAMES, weights), 2)
    assert rows.choice.names == ("code", "chat")
    assert rows.choice.rows == 1
    assert rows.choice.index.tolist() == [[0], [1]]


class Counted:
    """A model that counts the texts it was asked about."""

    def __init__(self, model: TinyLM) -> None:
        self.model, self.texts, self.opened = model, 0, 0
        self.tokenizer, self.vocab_size = model.tokenizer, model.vocab_size

    def score(self, tokens, *, lengths=None, context=1):
        self.texts += len(tokens)
        return self.model.score(tokens, lengths=lengths, context=context)

    def logprobs(self, tokens, *, lengths=None, context=1):
        self.texts += len(tokens)
        return self.model.logprobs(tokens, lengths=lengths, context=context)

    def open(self, prompts):
        self.opened += len(prompts)
        return self.model.open(prompts)


@pytest.mark.parametrize("joined", [False, True])
def test_whole_models_read_their_own_texts_alone(joined: bool):
    models = {name: Counted(model) for name, model in toys().items()}
    parts = [SeparateVoices({name: models[name]}) for name in models]
    voices = JoinedVoices(parts) if joined else SeparateVoices(models)
    tokens = torch.randint(0, 7, (9, 8), generator=torch.Generator().manual_seed(3))
    choice = Choice(("law", "chat"), torch.tensor([[0], [1], [1]] * 3))

    def asked(ask) -> int:
        for model in models.values():
            model.texts = 0
        ask()
        return sum(model.texts for model in models.values())

    assert asked(lambda: voices.score(tokens, choice, lengths=None)) == 9
    assert asked(lambda: voices.logprobs(tokens, choice, lengths=None)) == 9
    voices.open(tokens[:, :4].tolist(), choice)
    assert sum(model.opened for model in models.values()) == 9


def test_texts_with_one_and_with_two_voices_in_a_part_are_put_together():
    models = toys()
    parts = [SeparateVoices({name: models[name] for name in names}) for names in (("law", "code"), ("chat", "base"))]
    joined, flat = JoinedVoices(parts), SeparateVoices(models)
    index = torch.tensor([[1, 3], [0, 1], [2, 0], [3, 2]])
    choice = Choice(("chat", "law", "base", "code"), index)
    tokens = torch.randint(0, 7, (4, 6), generator=torch.Generator().manual_seed(0))
    wanted = flat.score(tokens, Choice(choice.names), lengths=None).gather(-1, index[:, None].expand(-1, 6, -1))
    assert torch.equal(joined.score(tokens, choice, lengths=None), wanted)
    assert torch.equal(flat.score(tokens, choice, lengths=None), wanted)
    prompts = [[1, 2], [3], [4, 5, 6], [1]]
    one, other = joined.open(prompts, choice), flat.open(prompts, choice)
    assert torch.equal(one.prompt_scores(), other.prompt_scores())
    for rows in ([3, 1, 0], [1, 2]):
        for decoding in (one, other):
            decoding.keep(torch.tensor(rows))
            decoding.step(torch.tensor([2] * len(rows)))
        assert torch.equal(one.logprobs(), other.logprobs())
        assert torch.equal(one.prompt_scores(), other.prompt_scores())


@pytest.mark.parametrize("router", [uniform(), posterior()])
def test_a_composition_with_a_coarse_router_is_a_voice(router: RouterRecipe):
    base = with_adapters()
    mixed = Mix(base, keys(), posterior().bind(NAMES))
    voices = SeparateVoices({"law": mixed, "code": base, "chat": random_base("llama", 1)})
    check_language_model(Ensemble(voices, router.bind(("law", "code"))), batch=2, seq=6, contexts=(1, 3))


def test_open_weights_are_refused_by_an_ensemble():
    routing = Routing(NAMES, torch.tensor([[[2.0, -1.0, 0.5]]]), kind="open")
    with pytest.raises(RoutingError, match="simplex"):
        combine(routing, torch.zeros(1, 3, 3))
    with pytest.raises(RoutingError, match="simplex"):
        live_rows(routing, 1)


def test_a_router_over_strangers_is_refused():
    with pytest.raises(RoutingError, match="stranger"):
        Ensemble(SeparateVoices(toys()), uniform().bind(("law", "stranger")))
    with pytest.raises(RoutingError, match="stranger"):
        Mix(with_adapters(), keys(), uniform().bind(("law", "stranger")))


def test_top_k_keeps_the_largest_and_is_a_language_model():
    models = toys()
    one = Ensemble(SeparateVoices(models), posterior().bind(NAMES), top_k=1)
    routing = one.routing(torch.randint(0, 7, (2, 9), generator=torch.Generator().manual_seed(1)))
    assert ((routing.dense() > 0).sum(-1) == 1).all()


class LooksAhead:
    """Weights for token t from token t itself: the mistake the suite is for."""

    def __init__(self, inner: Ensemble) -> None:
        self.inner = inner
        self.tokenizer, self.vocab_size = inner.tokenizer, inner.vocab_size

    def logprobs(self, tokens, *, lengths=None, context=1):
        found = self.inner.logprobs(tokens, lengths=lengths, context=context)
        return torch.cat([found[:, 1:], found[:, -1:]], dim=1)

    def score(self, tokens, *, lengths=None, context=1):
        return self.inner.score(tokens, lengths=lengths, context=context)

    def open(self, prompts):
        return self.inner.open(prompts)


def forgets_weights(models: dict[str, TinyLM]) -> LanguageModel:
    """Mixes all experts alike whatever the router says."""
    return Ensemble(SeparateVoices(models), uniform().bind(NAMES))


def test_the_suite_catches_looking_ahead():
    models = toys()
    with pytest.raises(AssertionError):
        check_composition(lambda recipe: LooksAhead(Ensemble(SeparateVoices(models), recipe.bind(NAMES))), models)


def test_the_suite_catches_forgotten_weights():
    models = toys()
    with pytest.raises(AssertionError, match="alone"):
        check_composition(lambda recipe: forgets_weights(models), models)
    with pytest.raises(AssertionError, match="weighted sum"):
        check_mixture(lambda recipe: forgets_weights(models), models)


class AheadMix(Mix):
    """The weights of each token one token early, for routers that read text alone."""

    def routing(self, tokens, *, lengths=None, context=1):
        routing = super().routing(tokens, lengths=lengths, context=context)
        if routing.weights.shape[1] == 1 or self.router.needs_likelihoods:
            return routing
        weights = routing.dense()
        return Routing(routing.experts, torch.cat([weights[:, 1:], weights[:, -1:]], dim=1), kind=routing.kind)


class FirstText(Ensemble):
    """The first text's held weights for every text."""

    def _route(self, tokens, lengths, context, table):
        routing = super()._route(tokens, lengths, context, table)
        if routing.weights.shape[1] > 1:
            return routing
        return Routing(self.experts, routing.dense()[:1].expand(len(routing.weights), -1, -1))


def test_the_suite_catches_a_mix_that_looks_ahead():
    base = with_adapters()
    with pytest.raises(AssertionError, match="ahead"):
        check_composition(lambda recipe: AheadMix(base, keys(), recipe.bind(NAMES)), alone(base))


def test_the_suite_catches_one_text_routed_as_another():
    models = toys()
    with pytest.raises(AssertionError, match="alone"):
        check_composition(lambda recipe: FirstText(SeparateVoices(models), recipe.bind(NAMES)), models)
