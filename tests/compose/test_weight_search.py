"""Weights found without gradients: never worse than where the search began, and the loss is that of the blend."""

import math

import pytest
import torch

from collegium.compose import adapter_soup, blend_loss, greedy_soup, search_weights, text_similarity
from collegium.core.errors import ConfigError
from collegium.data import Document, cut
from collegium.testing.pico import pico_base, random_adapter

NAMES = ("law", "code", "verse")
BEST = {"law": 0.6, "code": -0.3, "verse": 0.0}


def bowl(weights):
    off = [weights.get(name, 0.0) - best for name, best in BEST.items()]
    return 1 + off[0] ** 2 + 2 * off[1] ** 2 + 0.5 * off[2] ** 2 + 0.5 * off[0] * off[1]


def test_a_search_finds_the_bottom():
    found = search_weights(bowl, NAMES, penalty=0.0, evaluations=200)
    for name, best in BEST.items():
        assert found.weights.get(name, 0.0) == pytest.approx(best, abs=1e-2)
    assert found.loss == pytest.approx(1.0, abs=1e-3)


@pytest.mark.parametrize("evaluations", [5, 6, 11, 40])
def test_a_search_keeps_its_budget_and_is_never_worse_than_its_starts(evaluations):
    asked = []

    def loss(weights):
        asked.append(dict(weights))
        return bowl(weights)

    found = search_weights(loss, NAMES, penalty=0.1, evaluations=evaluations)
    assert found.evaluations == len(asked) <= evaluations
    starts = [{}, *({name: 1.0} for name in NAMES), dict.fromkeys(NAMES, 1 / 3)]
    value = found.loss + 0.1 * sum(map(abs, found.weights.values()))
    assert value <= min(bowl(start) + 0.1 * sum(start.values()) for start in starts) + 1e-12
    assert found.loss == pytest.approx(bowl(found.weights))
    assert asked[: len(starts)] == starts


def test_the_penalty_shrinks_weights():
    free, paid = (search_weights(bowl, NAMES, penalty=each, evaluations=200).weights for each in (0.0, 0.3))
    assert sum(map(abs, paid.values())) < sum(map(abs, free.values())) - 0.1
    assert search_weights(bowl, NAMES, penalty=5.0, evaluations=100).weights == {}


def test_the_bounds_hold():
    found = search_weights(lambda weights: (weights.get("law", 0) - 9) ** 2, ["law"], penalty=0.0, evaluations=80)
    assert found.weights["law"] == pytest.approx(1.5, abs=1e-2)


def test_few_evaluations_try_every_weight():
    best = {f"expert {number}": (-1) ** number * (0.1 + 0.05 * number) for number in range(12)}

    def loss(weights):
        return 2 + sum((weights.get(name, 0.0) - wanted) ** 2 for name, wanted in best.items())

    found = search_weights(loss, tuple(best), penalty=0.0, evaluations=28)
    start = min(loss({}), loss(dict.fromkeys(best, 1 / 12)))
    assert found.loss - 2 < (start - 2) / 2
    assert len({round(weight, 4) for weight in found.weights.values()}) >= 10


def test_a_search_needs_experts_and_evaluations():
    with pytest.raises(ConfigError, match="at least one expert"):
        search_weights(bowl, [])
    with pytest.raises(ConfigError, match="begins with 5 evaluations, got 4"):
        search_weights(bowl, NAMES, evaluations=4)
    with pytest.raises(ConfigError, match="at least one expert"):
        greedy_soup(bowl, [])


def test_a_soup_takes_what_helps_from_the_best_on():
    table = {("a",): 2.0, ("b",): 1.0, ("c",): 3.0, ("b", "a"): 0.9, ("b", "a", "c"): 1.5}
    found = greedy_soup(lambda weights: table[tuple(weights)], ["a", "b", "c"])
    assert found.weights == {"b": 0.5, "a": 0.5}
    assert (found.loss, found.evaluations) == (0.9, 5)


def test_the_nearest_are_averaged():
    similarity = text_similarity(
        ["the judge held that the tenant owed rent"],
        {
            "law": ["the court held that rent was owed", "a judge and a tenant"],
            "code": ["def rent(x): return x", "import os"],
            "verse": ["shall I compare thee", "the summer"],
        },
    )
    assert max(similarity, key=similarity.__getitem__) == "law"
    assert all(0 <= each <= 1 + 1e-6 for each in similarity.values())
    assert adapter_soup(similarity, nearest=1) == {"law": 1.0}
    assert adapter_soup(similarity, nearest=3) == dict.fromkeys(sorted(similarity, key=lambda n: -similarity[n]), 1 / 3)
    for nearest in (0, 4):
        with pytest.raises(ConfigError, match="1 to 3 can be the nearest"):
            adapter_soup(similarity, nearest=nearest)


def test_a_text_is_nearest_to_itself():
    own = {"law": ["the court held"], "code": ["def f(x)"]}
    assert text_similarity(own["law"], own)["law"] == pytest.approx(1.0, abs=1e-6)


def test_the_loss_is_that_of_the_folded_model():
    base = pico_base()
    for seed, name in enumerate(NAMES[:2]):
        base.attach(f"{name}@", random_adapter(base, seed, scale=0.1))
    documents = [Document(text="to be or not to be, that is the question " * 3), Document(text="fn main")]
    keys = {name: f"{name}@" for name in NAMES[:2]}
    loss = blend_loss(base, keys, documents, tokenizer=base.tokenizer, tokens=90, window=40)
    text = cut(documents, base.tokenizer, window=40, budget_tokens=90)
    for weights in ({}, {"law": 1.0}, {"law": 0.4, "code": -0.7}):
        model = base.folded({keys[name]: weight for name, weight in weights.items()})
        scores = model.score(text.tokens, lengths=text.lengths)
        wanted = -float(scores[text.scored].double().mean())
        assert loss(weights) == pytest.approx(wanted, abs=1e-4)
    assert loss({}) == pytest.approx(math.log(base.vocab_size), abs=0.5)
    assert torch.equal(base.logprobs(text.tokens), pico_base().logprobs(text.tokens))
