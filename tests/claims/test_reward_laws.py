"""The exact claims on reward models hold, and what breaks them is seen."""

import dataclasses

import pytest
import torch

from collegium.claims import reward_counts, reward_laws
from collegium.claims.experiment import Place
from collegium.data.synthetic_preferences import conflicting_domains
from collegium.rewards import DESIGNS, RewardModel
from collegium.rewards.judges import AdapterJudges


@pytest.fixture
def place(tmp_path):
    torch.set_num_threads(1)
    return Place(3, tmp_path, tmp_path, {}, lambda line: None)


def test_sizes_are_in_order_and_counted_to_the_last_number(place):
    found = reward_counts.resident(place)
    assert found["arliss_minus_more"] <= -1.0
    assert found["more_minus_rodos"] <= -1.0
    assert 0 < found["arliss_over_backbone"] <= 0.1
    assert found["count_gap"] == 0.0


def test_a_count_that_forgets_the_router_is_seen(place, monkeypatch):
    monkeypatch.setattr(reward_counts, "DEFAULT_SHAPE", small_shape())
    assert reward_counts.resident(place)["count_gap"] == 0.0
    monkeypatch.setattr(AdapterJudges, "resident", property(lambda judges: judges._base_size))
    assert reward_counts.resident(place)["count_gap"] > 0


def small_shape():
    return {**reward_counts.DEFAULT_SHAPE, "vocab_size": 300, "hidden_size": 36, "num_hidden_layers": 12}


def test_tensors_that_are_shared_are_counted_once():
    one = torch.zeros(3)
    assert reward_counts.numbers([one, one, torch.zeros(2)]) == 5


def test_misrouting(place):
    assert set(reward_laws.misrouting(place).values()) == {0.0}


def test_a_loss_that_is_no_misrouting_is_seen(place, monkeypatch):
    """A model whose reward is not the chosen judge's own loses where nothing is misrouted."""
    own = RewardModel.judge

    def averaged(model, samples, **asked):
        said = own(model, samples, **asked)
        return dataclasses.replace(said, rewards=-said.rewards)

    monkeypatch.setattr(RewardModel, "judge", averaged)
    found = reward_laws.misrouting(place)
    assert found["identity_gap"] > 0
    assert found["loss_above_misrouted"] > 0


def test_a_router_that_never_errs_proves_nothing(place, monkeypatch):
    own = RewardModel.judge

    prompts = {pair.prompt for pair in conflicting_domains(60, place.number)["longer"].pairs}

    def routed(model, samples, **asked):
        said = own(model, samples, **asked)
        right = torch.tensor([0 if each.prompt in prompts else 1 for each in samples])
        return dataclasses.replace(said, choice=right, rewards=said.every.gather(1, right[:, None])[:, 0])

    monkeypatch.setattr(RewardModel, "judge", routed)
    assert reward_laws.misrouting(place) == {"identity_gap": 0.0, "loss_above_misrouted": 0.0, "nothing_misrouted": 1.0}


def test_growth(place):
    assert set(reward_laws.reward_growth(place).values()) == {0.0}


def test_growth_that_fits_all_judges_anew_is_seen(place, monkeypatch):
    def anew(making):
        for name in [each for each in making.library if making.library.card(each).task == "reward"]:
            making.library.remove(name, cascade=True)
        if making.name in making.library.model_names():
            making.library.remove(making.name)
        again = dataclasses.replace(making, config=dataclasses.replace(making.config, seed=9), generation=2)
        DESIGNS[making.name].fit(again).save(making.library, making.name)

    monkeypatch.setattr(reward_laws, "grow", anew)
    found = reward_laws.reward_growth(place)
    assert found["changed_judges"] > 0
    assert found["changed_files"] > 0


def test_switching(place):
    assert set(reward_laws.switching(place).values()) == {0.0}


def test_judges_that_leak_into_each_other_are_seen(place, monkeypatch):
    """Judges whose reward is blended with the next one's are not their adapters alone."""
    every = AdapterJudges.every

    def blended(judges, batch):
        said = every(judges, batch)
        return (said + said.roll(1, dims=1)) / 2

    monkeypatch.setattr(AdapterJudges, "every", blended)
    monkeypatch.setattr(
        AdapterJudges, "chosen", lambda judges, batch, index: blended(judges, batch).gather(1, index[:, None])[:, 0]
    )
    assert reward_laws.switching(place)["switching_gap"] > 0
