"""The experiment on arithmetic, whole, on a pico base and made-up texts, and its measures against known answers."""

import dataclasses
import json
import math

import pytest
import torch

from collegium.claims import EXPERIMENTS, read_ledger, run_claims
from collegium.claims.experiment import Place
from collegium.claims.small_algebra import AlgebraWork, algebra_experiment, module_names
from collegium.claims.small_algebra_measure import halves_metrics, negation_metrics, rank_correlation
from collegium.claims.small_algebra_setup import AlgebraSettings, Reader, feature_share, feature_tokens, filled_blanks
from collegium.claims.tables import read_table
from collegium.core.errors import DataError
from collegium.data import Document, encode
from collegium.testing.pico import byte_tokenizer, pico_base

SETTINGS = AlgebraSettings(
    base="pico",
    dtype="float32",
    source="alpha",
    target="beta",
    rank=2,
    layers="top:1",
    rate=1e-2,
    steps=3,
    batch=2,
    window=96,
    context=16,
    pool=8,
    passage=96,
    eval_tokens=384,
    dev_tokens=192,
    strengths=(0.0, 0.5, 1.0),
    weights=(0.5, 0.8),
    feature=("f", "g"),
    samples=1,
    sample_tokens=6,
    item=60,
    left=3,
    blank=2,
    task_items=8,
    test_items=6,
    dev_items=4,
)


@pytest.fixture(scope="module")
def work(pico_texts):
    base = pico_base()
    return AlgebraWork(SETTINGS, lambda: base, lambda: pico_texts)


@pytest.fixture(scope="module")
def modules(work, tmp_path_factory):
    folder = tmp_path_factory.mktemp("modules")
    place = Place(0, folder, folder, {}, lambda line: None)
    for name in module_names(SETTINGS):
        work.train(name, place)
    return place


def test_halves_share_no_passage_and_make_up_the_whole(pico_texts):
    reader = Reader(pico_texts, byte_tokenizer(), SETTINGS, 0)
    first, second, whole = (reader.module_texts("alpha", which).train for which in ("first", "second", "whole"))
    assert len(first) == len(second) == 4
    assert not {each.hash for each in first} & {each.hash for each in second}
    assert {each.hash for each in whole} == {each.hash for each in (*first, *second)}


def test_a_blank_is_asked_for_and_nothing_else_is_scored():
    text = "cut one two three four five six cut"
    [pair] = filled_blanks([Document(text=text)], left=2, blank=3)
    assert pair.prompt == "Text: one two [...] six\nThe missing words:"
    assert pair.completion == " three four five"
    coded = encode(pair, byte_tokenizer())
    scored = [token for token, counts in zip(coded.tokens, coded.scored, strict=True) if counts]
    assert byte_tokenizer().decode(scored[:-1]) == pair.completion
    with pytest.raises(DataError, match="more than 9 words"):
        filled_blanks([Document(text=text)], left=4, blank=3)


def test_the_task_of_dev_and_test_are_other_texts(pico_texts):
    reader = Reader(pico_texts, byte_tokenizer(), SETTINGS, 0)
    dev, test = reader.target_task("dev"), reader.target_task("test")
    rows = [{tuple(row.tolist()) for row in each.tokens} for each in (dev, test)]
    assert not rows[0] & rows[1]
    assert bool((test.counted.sum(-1) > 0).all())
    assert bool((test.counted.sum(-1) < test.lengths).all())


def test_words_of_the_feature_are_whole_tokens():
    tokenizer = byte_tokenizer()
    assert feature_tokens(tokenizer, 256, ("f", "thou")) == [ord("F"), ord("f")]
    with pytest.raises(DataError, match="no token that is one of thou"):
        feature_tokens(tokenizer, 256, ("thou",))
    assert feature_share(["Thou, thyself; THOU'", "other"], ("thou",)) == pytest.approx(1 / 4)
    assert feature_share([""], ("thou",)) == 0.0


def test_halves_start_alike_and_the_other_does_not(work, modules, tmp_path):
    still = dataclasses.replace(SETTINGS, rate=1e-12)
    lazy = AlgebraWork(still, work.base, work.texts)
    place = Place(0, tmp_path, tmp_path, {}, lambda line: None)
    for name in ("alpha-first", "alpha-second", "alpha-other", "task"):
        lazy.train(name, place)
    starts = {name: lazy.module(name, place) for name in ("alpha-first", "alpha-second", "alpha-other", "task")}
    path = next(iter(starts["task"]))
    first = starts["alpha-first"][path].a
    assert all(torch.allclose(first, starts[name][path].a, atol=1e-6) for name in ("alpha-second", "task"))
    assert not torch.allclose(first, starts["alpha-other"][path].a, atol=1e-2)


def test_subtracting_is_what_the_algebra_says(work, modules):
    less = work.subtracted(modules)
    whole = work.module("beta-whole", modules)
    assert less["base"] is None
    for path, part in whole.items():
        assert torch.allclose(less["0.5"][path].delta(), -0.5 * part.delta(), atol=1e-7)


def test_masses_are_the_models_own_probabilities(work, modules):
    text = work.reader(0).held_out()
    [mass] = work.masses(text, {"base": None})
    base, ids = work.base(), feature_tokens(byte_tokenizer(), 258, SETTINGS.feature)
    total, count = 0.0, 0
    for row, (tokens, counted) in enumerate(zip(text.tokens, text.counted, strict=True)):
        said = base.logprobs(tokens[None, : text.lengths[row]])[0].exp()
        for place in torch.nonzero(counted).flatten().tolist():
            total, count = total + float(said[place - 1, ids].sum()), count + 1
    assert mass == pytest.approx(total / count, rel=1e-5)


def test_metrics_of_known_losses():
    nats = {
        "first half": 3.0,
        "second half": 2.9,
        "both halves' text": 2.5,
        "parameters merged": 2.7,
        "changes merged": 2.7,
        "parameters merged, other start": 2.95,
        "changes merged, other start": 2.75,
    }
    found = halves_metrics({"law": nats, "code": {**nats, "parameters merged": 2.75}})
    assert found["better_half_minus_merged"] == pytest.approx(0.15)
    assert found["merged_minus_whole"] == pytest.approx(0.2)
    assert found["other_start_minus_same_start"] == pytest.approx(0.2)
    assert found["parameters_lose_more_than_changes"] == pytest.approx(0.15)


def test_negation_of_known_numbers():
    negated = {
        "strengths": [0, 0.5, 1],
        "mass": [0.04, 0.02, 0.01],
        "own_nats": [3.0, 3.2, 3.4],
        "general_nats": [2.0, 2.0, 2.1],
    }
    found = negation_metrics(negated, {"rates": [0.02, 0.015, 0.01]})
    assert found["smallest_fall_of_log_mass"] == pytest.approx(math.log(2))
    assert found["rate_rank_correlation"] == -1
    assert found["rate_left"] == pytest.approx(0.5)
    assert found["general_rise"] == pytest.approx(0.1)
    assert found["general_over_own_rise"] == pytest.approx(0.25)
    assert rank_correlation([0.0, 1.0, 2.0], [5.0, 5.0, 5.0]) == 0


@pytest.mark.recipe
def test_all_four_claims_come_out_of_one_pico_experiment(work, tmp_path):
    experiment = algebra_experiment(SETTINGS, base=work.base, texts=work.texts)
    own = [claim.id for claim in read_ledger() if claim.experiment == "small_algebra"]
    outcomes = run_claims(
        own,
        "small",
        folder=tmp_path / "run",
        results=tmp_path / "results",
        experiments={**EXPERIMENTS, "small_algebra": experiment},
    )
    assert [each.claim.id for each in outcomes] == ["C4", "C5", "C6", "C7"]
    assert all(each.state == "measured" for each in outcomes)
    assert all(math.isfinite(value) for each in outcomes for part in each.result.parts for value in part.values)
    [table] = {each.result.table for each in outcomes}
    rows = {row["model"]: row for row in read_table(table, folder=tmp_path / "results") if row["seed"] == 0}
    assert {"parameters merged (beta)", "base - 0 beta", "analogy, on the target's task"} <= set(rows)
    assert rows["base (beta)"]["perplexity"] == pytest.approx(rows["base - 0 beta"]["perplexity"]["beta"], rel=1e-4)
    analogy = json.loads((tmp_path / "run" / "small_algebra" / "seed-0" / "analogy.json").read_text())["result"]
    for name, weight in analogy["chosen"].items():
        tried = {key: value for key, value in analogy["dev_nats"].items() if key.rsplit(" ", 1)[0] == name}
        assert min(tried.values()) == analogy["dev_nats"][f"{name} {weight:g}"]
