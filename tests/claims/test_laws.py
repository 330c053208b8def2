"""The exact claims hold, and broken methods are told apart from them."""

import pytest
import torch

from collegium.claims import laws
from collegium.claims.counting import CountingModel, CountingVoices
from collegium.claims.experiment import Place
from collegium.compose import Choice, SlotVoices
from collegium.core.routing import BASE
from collegium.routers import fit_cached_prior
from collegium.testing.pico import pico_base
from collegium.testing.shelf import MemoryShelf


@pytest.fixture
def place(tmp_path):
    return Place(3, tmp_path, tmp_path, {}, lambda line: None)


def test_the_bound_holds_and_the_one_token_posterior_breaks_it(place):
    found = laws.bound(place)
    assert found["bound_excess"] <= 1e-9
    assert found["one_token_within_bound"] == 0.0


def test_growth_leaves_files_and_answers(place):
    found = laws.growth(place)
    assert found["changed_files"] == 0
    assert found["largest_change_after_removal"] == 0
    assert found["added_bound_excess"] <= 1e-4
    assert found["others_within_bound"] == 0, "the bound must be one that other routers break"


def test_limits_of_the_temperature(place):
    found = laws.limits(place)
    assert found["cold_gap"] <= 1e-6
    assert found["hot_gap"] <= 1e-5


def test_rows_are_counted_where_they_are_asked_for(place):
    assert laws.counts(place) == {
        "parameter_share_gap": 0.0,
        "posterior_evaluates_gap": 0.0,
        "coarse_evaluates_gap": 0.0,
    }


def test_counting_voices_note_what_they_are_asked():
    voices = CountingVoices(SlotVoices(pico_base(0), {}))
    tokens = torch.zeros(1, 4, dtype=torch.long)
    voices.score(tokens, Choice((BASE,)), lengths=torch.tensor([4]))
    voices.logprobs(tokens, Choice((BASE, BASE)), lengths=torch.tensor([4]))
    assert voices.asked == [1, 2]
    assert voices.names == (BASE,)


def test_counting_models_note_the_texts_they_read():
    model, tokens = CountingModel(pico_base(0)), torch.zeros(3, 4, dtype=torch.long)
    model.score(tokens)
    model.logprobs(tokens[:1])
    model.open([[1, 2]])
    assert model.texts == 5


def test_an_ensemble_of_everything_runs_a_text_through_everything(place):
    base = pico_base(place.number)
    shelf, text = MemoryShelf(), laws.held_out_windows(base, place.number)
    fit_cached_prior(shelf, log_likelihoods=torch.tensor([[-9.0, -8.0, -10.0, -11.0]]), experts=laws.DOMAINS)
    shares = [laws.parameter_share(text, place.number, shelf=shelf, top_k=k) for k in (1, 3, 4)]
    assert shares == [0.25, 0.75, 1.0]


def test_an_expert_is_the_same_after_others(place):
    alone, after = laws.fitted_digests(3, ("law",)), laws.fitted_digests(3, ("code", "law"))
    assert alone == after
    assert alone != laws.fitted_digests(3, ("code",))


def test_an_expert_is_the_same_in_another_process(place):
    assert laws.parallel(place) == {"differing_after_others": 0.0, "differing_in_process": 0.0}
