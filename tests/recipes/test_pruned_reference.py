"""`prune` in a model reference: from the words to the model, and what commands say of it."""

import json
from dataclasses import replace

import pytest
import torch

import collegium as cg
from collegium.cli.main import main
from collegium.compose import Ensemble, assemble
from collegium.core.cards import ExpertCard
from collegium.core.errors import ConfigError, RoutingError
from collegium.data import read_domains
from collegium.experts import AdapterPayload, Expert
from collegium.infer import fill_table, score_text
from collegium.recipes.columns import Way, column, cost_key, time_columns
from collegium.recipes.common import Common
from collegium.recipes.evaluate import composed_scores
from collegium.recipes.held_out import windows_of
from collegium.recipes.opening import open_reference
from collegium.recipes.watch import Silent
from collegium.routers import posterior
from collegium.testing.pico import random_adapter

pytestmark = pytest.mark.recipe
COMMON = Common(dtype="float32", device="cpu", threads=1)


@pytest.fixture(scope="module")
def library(tmp_path_factory, pico_folder):
    base = cg.load_base(str(pico_folder), dtype="float32")
    found = cg.Library(tmp_path_factory.mktemp("pruned") / "lib", base=base, base_reference=str(pico_folder))
    for seed, name in enumerate(("law", "sea", "kitchen"), start=1):
        card = ExpertCard(name=name, kind="lora", base=base.fingerprint)
        found.add(Expert(card, AdapterPayload(random_adapter(base, seed, scale=0.3))))
    return found


@pytest.fixture(scope="module")
def text(library, texts):
    documents = {domain.name: domain.documents[:2] for domain in read_domains(texts)}
    return windows_of(documents, library.base.tokenizer, window=128, context=32, budget_tokens=512)


def opened(library, query):
    return open_reference(f"{library.path}?{query}", COMMON, watch=Silent())


def test_a_reference_opens_a_pruned_ensemble(library):
    model = opened(library, "router=posterior&prune=1e-2").model
    assert isinstance(model, Ensemble)
    assert model.prune == 0.01
    assert opened(library, "router=posterior&prune=0").model.prune == 0.0
    assert opened(library, "router=posterior&prune=0&compose=mix").way.prune == 0.0


@pytest.mark.parametrize(
    ("query", "error", "lesson"),
    [
        ("router=posterior&compose=mix&prune=1e-3", ConfigError, "mix is one row a text. Leave prune out"),
        ("router=uniform&compose=merge&prune=1e-3", ConfigError, "merge is one row a text. Leave prune out"),
        ("router=arrow&prune=1e-3", ConfigError, "mix is one row a text. Leave prune out"),
        ("router=uniform&prune=1e-3", RoutingError, "Use router=posterior, or leave prune out"),
    ],
)
def test_prune_is_refused_where_it_means_nothing(library, query, error, lesson):
    with pytest.raises(error, match=lesson):
        opened(library, query)


def test_fixed_weights_are_not_pruned(library):
    with pytest.raises(RoutingError, match="leave prune out"):
        open_reference(f"{library.path}?prune=1e-3", COMMON, watch=Silent(), weights={"law": 0.5})


@pytest.mark.parametrize("epsilon", [1e-2, 0.4])
def test_a_column_says_how_many_experts_a_token_was_read_by(library, text, epsilon):
    cast = assemble(library.base, library)
    table = fill_table(cast.voices(), text, cast.voices().names)
    pruned, full = Way("ensemble", posterior(), prune=epsilon), Way("ensemble", posterior())
    found = column(pruned, cast, library, table, watch=Silent())
    every = column(full, cast, library, table, watch=Silent())
    model = cast.ensembled(posterior(), shelf=library, prune=epsilon)
    counted = text.counted
    torch.testing.assert_close(found.scores[counted], score_text(model, text)[counted], atol=1e-4, rtol=0)
    assert every.rows == 3
    assert 1 < found.rows < 3
    present = float((found.routing.dense() > 0).sum(-1)[counted].float().mean())
    assert found.rows >= 0.9 * present
    assert cost_key(pruned, found.rows) != cost_key(full, every.rows)
    timed, _ = time_columns([found, every], cast, library, text, watch=Silent())
    assert timed.rows == found.rows
    assert timed.ms_per_token > 0
    with pytest.raises(RoutingError, match="leave prune out"):
        column(replace(pruned, recipe=cg.routers.uniform()), cast, library, table, watch=Silent())


def test_eval_scores_the_pruned_ensemble_and_not_the_full_one(library, text):
    pruned, full = opened(library, "router=posterior&prune=0.4"), opened(library, "router=posterior")
    table = fill_table(pruned.cast.voices(), text, pruned.cast.voices().names)
    scores, routing = composed_scores(pruned, table, watch=Silent())
    counted = text.counted
    torch.testing.assert_close(scores[counted], score_text(pruned.model, text)[counted], atol=1e-4, rtol=0)
    assert (composed_scores(full, table, watch=Silent())[0] - scores)[counted].abs().max() > 1e-3
    assert (routing.dense() == 0).any()


def test_commands_answer_a_wrong_prune(library, texts, capsys):
    for prune, lesson in (("-1", "from 0 to below 0.5"), ("some", "got 'some'")):
        assert main(["eval", str(texts), "--model", f"{library.path}?prune={prune}", "--json"]) == 2
        shown = capsys.readouterr()
        assert lesson in shown.err
        assert "Traceback" not in shown.err
    code = main(
        ["generate", "court", "--model", f"{library.path}?router=posterior&prune=1e-2", "--tokens", "20", "--json"]
    )
    shown = capsys.readouterr()
    assert code == 0, shown.err
    assert json.loads(shown.out.splitlines()[-1])
