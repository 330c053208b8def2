"""Tables, perplexities and what an evaluation says, against closed forms."""

import json
import math

import pytest
import torch

from collegium.compose import Ensemble, SeparateVoices
from collegium.core.errors import DataError
from collegium.data import Document, Domain, cut
from collegium.infer import (
    HeldOut,
    ensemble_scores,
    evaluate_scores,
    fill_table,
    held_out,
    perplexities,
    perplexity,
    routing_quality,
    score_text,
)
from collegium.infer.evaluation import calibration_error
from collegium.infer.tables import window_nats
from collegium.routers import fixed, posterior, uniform
from collegium.testing.tiny import LetterTokenizer, TinyLM, bigram_lm

NAMES = ("law", "code")
LETTERS = LetterTokenizer()


def expert(seed: int) -> TinyLM:
    model = bigram_lm(seed, symbols=len(LETTERS.alphabet))
    return TinyLM(model.logits.float(), 1, eos=None, tokenizer=LETTERS)


def models() -> dict[str, TinyLM]:
    flat = TinyLM(torch.zeros(len(LETTERS.alphabet), len(LETTERS.alphabet)), 1, eos=None, tokenizer=LETTERS)
    return {"base": flat, "law": expert(0), "code": expert(1)}


def text(context: int = 4) -> HeldOut:
    found = {}
    for place, name in enumerate(NAMES):
        drawn = expert(place).sample(6, length=40, generator=torch.Generator().manual_seed(place))
        documents = [Document(text=LETTERS.decode(row.tolist())) for row in drawn]
        found[name] = cut(documents, LETTERS, window=24)
    return held_out(found, context=context)


def test_the_table_holds_each_voice_alone():
    held, voices = text(), SeparateVoices(models())
    table = fill_table(voices, held, voices.names, batch=3)
    for name, model in models().items():
        wanted = model.score(held.tokens, lengths=held.lengths)
        assert torch.allclose(table.column(name), wanted, atol=1e-6)


@pytest.mark.parametrize("recipe", [uniform(), posterior(), fixed({"law": 0.7, "code": 0.3})])
@pytest.mark.parametrize("top_k", [None, 1])
def test_an_ensemble_from_the_table_is_the_ensemble(recipe, top_k):
    held, voices = text(), SeparateVoices(models())
    table = fill_table(voices, held, voices.names)
    scores, _ = ensemble_scores(table, recipe.bind(NAMES), tokenizer=LETTERS, top_k=top_k)
    model = Ensemble(voices, recipe.bind(NAMES), top_k=top_k)
    wanted = score_text(model, held)
    assert torch.allclose(scores[held.counted], wanted[held.counted], atol=1e-5)


def test_the_perplexity_of_a_flat_model_is_its_vocabulary():
    domain = Domain("law", tuple(Document(text=LETTERS.decode([1 + n % 20] * 50)) for n in range(20)))
    assert perplexity(models()["base"], domain, window=32, context=4) == pytest.approx(len(LETTERS.alphabet), rel=1e-5)


def test_context_tokens_are_read_and_not_scored():
    held = text(context=10)
    assert not held.counted[:, :10].any()
    assert held.counted[:, 10].any()


def test_a_context_as_long_as_the_text_is_refused():
    with pytest.raises(DataError, match="no held-out token"):
        text(context=24)


def test_windows_add_up_to_the_domain():
    held = text()
    scores = score_text(expert(0), held)
    units = window_nats(scores, held)
    total, count = units[held.of("law")].sum(0).tolist()
    assert math.exp(total / count) == pytest.approx(perplexities(scores, held)["law"], rel=1e-9)


def test_an_evaluation_is_what_its_columns_say():
    held, voices = text(), SeparateVoices(models())
    table = fill_table(voices, held, voices.names)
    scores, routing = ensemble_scores(table, posterior().bind(NAMES), tokenizer=LETTERS)
    found = evaluate_scores(table, scores, routing)
    assert found.base["law"] == pytest.approx(len(LETTERS.alphabet), rel=1e-5)
    for domain in NAMES:
        assert found.oracle[domain] == min(found.matrix[name][domain] for name in NAMES)
        low, high = found.intervals["composed"][domain]
        assert low <= found.composed[domain] <= high
    assert found.routing is not None
    assert found.routing.accuracy == 1.0
    assert found.routing.regret_nats_per_token >= -1e-6
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert {"base", "matrix", "composed", "oracle", "bits_per_byte", "routing", "seconds"} <= set(plain)


def test_bits_per_byte_are_nats_over_bytes():
    held, voices = text(), SeparateVoices(models())
    table = fill_table(voices, held, voices.names)
    found = evaluate_scores(table, table.column("base"), None)
    assert found.bits_per_byte["law"] == pytest.approx(math.log2(len(LETTERS.alphabet)), rel=1e-4)


def test_routing_to_the_oracle_has_no_regret_and_to_the_wrong_expert_has():
    held, voices = text(), SeparateVoices(models())
    table = fill_table(voices, held, voices.names)
    right = torch.stack([table.column(domain)[row] for row, domain in enumerate(held.domains)])
    other = {"law": "code", "code": "law"}
    wrong = torch.stack([table.column(other[each])[row] for row, each in enumerate(held.domains)])
    _, routing = ensemble_scores(table, posterior().bind(NAMES), tokenizer=LETTERS)
    assert routing_quality(table, right, routing).regret_nats_per_token == pytest.approx(0, abs=1e-9)
    assert routing_quality(table, wrong, routing).regret_nats_per_token > 0.5


def test_calibration_error_of_known_cases():
    assert calibration_error(torch.tensor([1.0, 1.0]), torch.tensor([True, True])) == 0
    assert calibration_error(torch.tensor([0.95, 0.95]), torch.tensor([False, False])) == pytest.approx(0.95)
