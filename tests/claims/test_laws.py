"""The exact claims hold, and broken methods are told apart from them."""

import pytest
import torch

from collegium.claims import laws
from collegium.claims.experiment import Place
from collegium.core.routing import BASE


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


def test_counting_voices_note_what_they_are_asked(place):
    base = laws.pico_base(0)
    voices = laws.CountingVoices(laws.SlotVoices(base, {}))
    tokens = torch.zeros(1, 4, dtype=torch.long)
    voices.score(tokens, laws.Choice((BASE,)), lengths=torch.tensor([4]))
    voices.logprobs(tokens, laws.Choice((BASE, BASE)), lengths=torch.tensor([4]))
    assert voices.asked == [1, 2]
    assert voices.names == (BASE,)


def test_an_expert_is_the_same_after_others(place):
    alone, after = laws.fitted_digests(3, ("law",)), laws.fitted_digests(3, ("code", "law"))
    assert alone == after
    assert alone != laws.fitted_digests(3, ("code",))
