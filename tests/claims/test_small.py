"""The small-scale experiment, whole, on a pico base and made-up texts: the same code path as the committed run."""

import json
import math

import pytest
import torch
from one_seed import write_rows

from collegium.claims import EXPERIMENTS, read_ledger, run_claims
from collegium.claims.small import small_experiment
from collegium.claims.small_setup import chunks, dev_name, materials, passages, with_token
from collegium.claims.small_train import random_parts
from collegium.claims.tables import read_table
from collegium.core.errors import DataError
from collegium.data import Document, encode
from collegium.testing.pico import byte_tokenizer, pico_base

NAMES = ("alpha", "beta", "gamma", "delta")


def test_passages_are_of_one_size_and_drawn_by_the_seed(pico_texts):
    tokenizer, documents = byte_tokenizer(), pico_texts.seen[0].documents
    drawn = passages(documents, tokenizer, tokens=50, count=7, seed=1, name="x")
    assert [len(tokenizer.encode(each.plain)) for each in drawn] == [50] * 7
    assert drawn == passages(documents, tokenizer, tokens=50, count=7, seed=1, name="x")
    assert drawn != passages(documents, tokenizer, tokens=50, count=7, seed=2, name="x")
    with pytest.raises(DataError, match="no document of 9999 tokens"):
        passages(documents, tokenizer, tokens=9999, count=1, seed=1, name="x")


def test_chunks_lose_nothing():
    text = "to be or not to be, that is the question"
    assert "".join(each.plain for each in chunks([Document(text=text)], byte_tokenizer(), tokens=7)) == text


def test_test_and_dev_texts_are_never_trained_on(pico_texts, pico_settings):
    found = materials(pico_texts, byte_tokenizer(), pico_settings, 0)
    for domain in pico_texts.seen:
        split = domain.split()
        held = "\n".join(each.plain for each in (*split.test, *split.dev))
        assert not any(passage.plain in held for passage in found.passages[domain.name])
    assert set(found.text.domain_names) == {
        name for domain in (*pico_texts.seen, *pico_texts.unseen) for name in (domain.name, dev_name(domain.name))
    }


def test_random_parts_are_equally_large(pico_texts, pico_settings):
    found = materials(pico_texts, byte_tokenizer(), pico_settings, 0)
    parts = random_parts(found, 0)
    assert torch.tensor(parts.train).bincount().tolist() == [24] * 4
    assert len(parts.dev) == len(found.all_dev)


def test_a_text_that_is_told_its_domain_has_no_end_of_its_own():
    tokenizer = byte_tokenizer()
    [told] = with_token([Document(text="to be")], "drama")
    coded = encode(told, tokenizer)
    assert tokenizer.decode(list(coded.tokens)) == "[drama]\nto be"
    assert tokenizer.eos_token_id not in coded.tokens


@pytest.mark.recipe
def test_all_small_claims_come_out_of_one_pico_experiment(pico_texts, pico_settings, tmp_path):
    base = pico_base()
    experiment = small_experiment(pico_settings, NAMES, base=lambda: base, texts=lambda: pico_texts)
    own = [claim.id for claim in read_ledger() if claim.experiment == "small"]
    outcomes = run_claims(
        ledger=write_rows(tmp_path / "ledger", own, scale="small"),
        folder=tmp_path / "run",
        results=tmp_path / "results",
        experiments={**EXPERIMENTS, "small": experiment},
    )
    assert {each.claim.id for each in outcomes} == set(own)
    assert all(each.state == "measured" for each in outcomes)
    by_id = {each.claim.id: each.result for each in outcomes}
    assert len({each.table for each in by_id.values()}) == 1
    _check_rows(read_table(by_id["M2"].table, folder=tmp_path / "results"), pico_texts)
    pieces = [path for path in (tmp_path / "run" / "small").rglob("*.json") if path.parent.name.startswith("seed-")]
    assert {path.parent.name for path in pieces} == {"seed-0"}
    judged = json.loads((tmp_path / "run" / "small" / "seed-0" / "judged.json").read_text())["result"]
    assert all(math.isfinite(value) for value in judged["metrics"].values())
    [law] = [claim for claim in read_ledger() if claim.key == "M6-small"]
    measured = {part.metric: part.values for part in by_id["M6"].parts}
    assert all(max(measured[part.metric]) <= part.margin for part in law.parts)


def _check_rows(rows, texts):
    first = {row["model"]: row for row in rows if row["seed"] == 0}
    assert {"base", "dense", "dense-wide", "dense-token", "merge uniform", "ensemble posterior", "oracle"} <= set(first)
    assert {"random-0", "clusters-3", *texts.names} <= set(first)
    assert first["ensemble posterior"]["experts_evaluated"] == 4
    assert first["ensemble cached prior top-2"]["experts_evaluated"] == 2
    assert first["ensemble cluster top-2"]["experts_evaluated"] > 2
    assert first["dense-wide"]["ms_per_token"] != first["dense"]["ms_per_token"]
    assert {"rate", "held_out_nats"} <= set(first["random-0"])
    assert first["train and add an expert, answer"]["seconds"] > first["remove an expert, answer"]["seconds"]
    assert first["dense-wide"]["trained_parameters"] == first["ensemble posterior"]["trained_parameters"]
    assert first["dense-wide"]["trained_parameters"] == 4 * first["dense"]["trained_parameters"]
    tokens = {name: first[name]["tokens"] for name in ("dense", "dense-wide", "ensemble posterior")}
    assert max(tokens.values()) <= 1.1 * min(tokens.values())
    assert set(first["dense"]["perplexity"]) == {*texts.names, "omega", "psi"}
    assert set(first["dense-token"]["perplexity"]) == set(texts.names)
