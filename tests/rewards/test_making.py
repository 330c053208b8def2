"""Making reward models: members come one by one, are found again, and mistakes are told."""

import math
from dataclasses import replace

import pytest
import torch
from small_rewards import QUICK, corpus_of, domain_of

from collegium.core.errors import ConfigError, DataError, LibraryError, NameTaken, RoutingError, TrainingError
from collegium.data.preferences import Pair, PairCorpus, PairDomain
from collegium.library import Library
from collegium.rewards import DESIGNS, DesignOptions, Making, RewardConfig, RewardRecord, fit_judge, open_reward
from collegium.train import MemoryLogger


@pytest.fixture
def empty(base, tmp_path):
    return Library(tmp_path / "library", base=base)


@pytest.fixture
def making(base, empty):
    return Making(base, empty, corpus_of("law", "code"), "judge", config=QUICK)


def test_equal_settings_and_pairs_give_equal_weights(base, corpus):
    first, second = (fit_judge(base, [corpus["law"]], config=QUICK, name="law").expert for _ in range(2))
    assert first.digest == second.digest
    assert first.card.constants == second.card.constants
    other = fit_judge(base, [corpus["law"]], config=replace(QUICK, seed=1), name="law").expert
    assert other.digest != first.digest


def test_a_domains_judge_does_not_depend_on_the_other_domains(base, making, tmp_path):
    DESIGNS["arliss"].fit(making)
    alone = fit_judge(base, [making.corpus["law"]], config=QUICK, name="judge-law").expert
    assert making.library.expert_digest("judge-law") == alone.digest


def test_a_fit_lowers_the_loss_and_keeps_the_best(base, corpus):
    done = fit_judge(base, [corpus["law"]], config=replace(QUICK, passes=30.0), name="law")
    losses = [each.loss for each in done.history.evaluations]
    assert min(losses) < 0.9 * losses[0]
    assert done.expert.card.task == "reward"
    assert done.expert.card.documents["train"]
    assert not done.expert.card.warnings


def test_a_fresh_judge_is_a_coin(base, corpus):
    done = fit_judge(base, [corpus["law"]], config=QUICK, name="law")
    assert done.history.evaluations[0].loss == pytest.approx(math.log(2), abs=0.01)


def test_kept_states_change_nothing(base, corpus):
    kept, anew = (
        fit_judge(base, [corpus["law"]], config=replace(QUICK, states_mb=limit), name="law") for limit in (64, 0)
    )
    both = [[step.loss for step in each.history.steps] for each in (kept, anew)]
    assert both[0] == pytest.approx(both[1], abs=1e-5)


def test_an_interrupted_fit_goes_on_to_the_same_weights(base, corpus, tmp_path):
    class Stop(MemoryLogger):
        def log(self, step, values):
            if step == 7 and "loss" in values:
                raise KeyboardInterrupt

    whole = fit_judge(base, [corpus["law"]], config=QUICK, name="law").expert
    with pytest.raises(KeyboardInterrupt):
        fit_judge(base, [corpus["law"]], config=QUICK, name="law", checkpoint=tmp_path / "fit", logger=Stop())
    assert base.attached == () or ".being-fitted" not in base.attached
    resumed = fit_judge(base, [corpus["law"]], config=QUICK, name="law", checkpoint=tmp_path / "fit").expert
    assert resumed.digest == whole.digest


def test_members_that_are_there_are_not_fitted_again(making):
    DESIGNS["arliss"].fit(making)
    again = replace(making, figures={})
    DESIGNS["arliss"].fit(again)
    assert all(each["kept"] for each in again.figures.values())


def test_members_of_other_settings_are_refused(making):
    DESIGNS["arliss"].fit(making)
    with pytest.raises(NameTaken, match="rank 4 there, 8 here"):
        DESIGNS["arliss"].fit(replace(making, config=replace(QUICK, rank=8)))


@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "joint"])
def test_one_domain_only_is_refused(making, design):
    with pytest.raises(ConfigError, match="the data has one"):
        DESIGNS[design].fit(replace(making, corpus=corpus_of("law")))


def test_a_domain_with_a_members_name_is_refused(base, empty):
    with pytest.raises(DataError, match="cannot be called 'router'"):
        Making(base, empty, corpus_of("law", "router"), "judge")
    with pytest.raises(DataError, match="at least one domain"):
        Making(base, empty, PairCorpus(()), "judge")


def test_answers_equal_after_the_cut_are_left_out_and_counted(base):
    long = "a" * 60
    pairs = tuple(Pair(f"law {n}?", long + "x", long + "y") for n in range(30))
    with pytest.raises(DataError, match="do not differ in their first 48 tokens"):
        fit_judge(base, [PairDomain("law", pairs)], config=QUICK, name="law")
    mixed = PairDomain("law", (*pairs, *domain_of("law", "x").pairs))
    done = fit_judge(base, [mixed], config=replace(QUICK, train_pairs=0, dev_pairs=0), name="law")
    assert done.equal > 0
    assert done.cut > 0
    assert done.pairs + done.equal <= 90


def test_a_diverging_fit_is_told(base, corpus):
    with pytest.raises(TrainingError):
        fit_judge(base, [corpus["law"]], config=replace(QUICK, learning_rate=1e30, passes=20.0), name="law")
    assert ".being-fitted" not in base.attached


def test_settings_out_of_their_bounds_are_all_told():
    with pytest.raises(ConfigError, match=r"batch is at least 1.*smoothing lies"):
        RewardConfig(batch=0, smoothing=0.5)
    with pytest.raises(ConfigError, match=r"threshold lies.*top_k"):
        DesignOptions(threshold=2.0, top_k=0)


def test_a_library_of_other_things_is_told_apart(base, making):
    DESIGNS["arliss"].fit(making).save(making.library, "judge")
    with pytest.raises(LibraryError, match="is for classification"):
        open_reward(base, making.library, "judge-router")
    making.library.save_model("policy", {"kind": "policy", "members": []})
    with pytest.raises(LibraryError, match="no reward model"):
        open_reward(base, making.library, "policy")
    making.library.save_model("later", {"kind": "reward", "version": 99, "members": []})
    with pytest.raises(LibraryError, match="version 99"):
        open_reward(base, making.library, "later")
    making.library.save_model("damaged", {"kind": "reward", "version": 1, "members": []})
    with pytest.raises(LibraryError, match="damaged"):
        open_reward(base, making.library, "damaged")


def test_a_record_comes_back_as_it_was(library):
    for design in DESIGNS:
        record = RewardRecord.load(library, design)
        assert record.design == design
        assert set(record.judges.values()) <= set(record.members)


def test_the_judges_of_these_tests_have_learnt_something(library):
    assert [name for name in library if library.card(name).warnings] == []


def test_members_say_what_they_are_for(library):
    tasks = {name: library.card(name).task for name in library}
    assert set(tasks.values()) == {"reward", "classification"}
    assert [name for name, task in tasks.items() if task == "classification"] == ["arliss-router"]
    assert library.names("language") == ()


def test_a_memory_needs_prompts_of_every_domain(making):
    with pytest.raises((RoutingError, DataError)):
        making.memory((PairDomain("law", ()),))


def test_margins_are_asked_for_where_they_are_wanted(base, corpus):
    plain, wide = (
        fit_judge(base, [corpus["law"]], config=replace(QUICK, margin_scale=scale), name="law") for scale in (0.0, 2.0)
    )
    assert wide.history.steps[0].loss > plain.history.steps[0].loss
    assert wide.history.evaluations[0].loss == plain.history.evaluations[0].loss
    assert torch.isfinite(torch.tensor([step.loss for step in wide.history.steps])).all()
