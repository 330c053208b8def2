"""Domains that come and go: the others' rewards stay the same to the last bit, and what moved is told."""

from dataclasses import replace

import pytest
import torch
from small_rewards import QUICK, corpus_of, domain_of

from collegium.core.errors import ConfigError, DataError, LibraryError, StaleRouter
from collegium.data.preferences import PairCorpus
from collegium.library import Library
from collegium.rewards import DESIGNS, DesignOptions, Making, drop, grow, open_reward

ROUTED = [name for name, row in DESIGNS.items() if row.grows]


@pytest.fixture(params=ROUTED)
def made(request, base, tmp_path):
    config = replace(QUICK, passes=2.0, learning_rate=3e-3)
    making = Making(
        base,
        Library(tmp_path / "library", base=base),
        corpus_of("law", "code"),
        "judge",
        config=config,
        options=DesignOptions(threshold=0.0),
    )
    DESIGNS[request.param].fit(making).save(making.library, "judge")
    return making


def newcomer(making):
    return replace(making, corpus=PairCorpus((domain_of("film", "z"),)))


def test_an_added_domain_leaves_every_other_judge_as_it_was(made, samples):
    """R6: rewards of prompts that keep their route are the same to the last bit."""
    before = open_reward(made.base, made.library, "judge")
    old = {name: before.judge(samples, by=name).rewards for name in before.domains}
    digests = {name: made.library.expert_digest(name) for name in made.library if not name.startswith("judge-router")}
    growth = grow(newcomer(made))
    after = open_reward(made.base, made.library, "judge")
    assert after.domains == ("law", "code", "film")
    assert growth.came == ("film",)
    for name, rewards in old.items():
        assert torch.equal(after.judge(samples, by=name).rewards, rewards)
    assert {name: made.library.expert_digest(name) for name in digests} == digests
    assert growth.pairs == len(domain_of("film", "z").split().train)
    assert set(growth.moved) == {"law", "code"}
    assert all(0 <= moved <= count for moved, count in growth.moved.values())


def test_a_dropped_domain_goes_and_the_others_stay(made, samples):
    grow(newcomer(made))
    before = open_reward(made.base, made.library, "judge")
    old = {name: before.judge(samples, by=name).rewards for name in before.domains}
    growth = drop(made, "code")
    after = open_reward(made.base, made.library, "judge")
    assert growth.left == ("code",)
    assert after.domains == ("law", "film")
    assert "judge-code" not in made.library
    for name in after.domains:
        assert torch.equal(after.judge(samples, by=name).rewards, old[name])


def test_nothing_of_earlier_generations_stays_behind(made):
    grow(newcomer(made))
    drop(made, "code")
    assert len(made.library.router_names()) == 1
    assert not made.library.verify()
    made.library.remove("judge")
    assert not list(made.library)
    assert not made.library.router_names()
    assert not made.library.model_names()


def test_the_last_two_domains_cannot_be_parted(made):
    with pytest.raises(LibraryError, match="judge-law"):
        drop(made, "code")


def test_unknown_and_known_domains_are_refused(made):
    with pytest.raises(ConfigError, match="no domain 'coda'"):
        drop(made, "coda")
    with pytest.raises(DataError, match="has all of these domains already"):
        grow(made)


@pytest.mark.parametrize("design", [name for name, row in DESIGNS.items() if not row.grows])
def test_designs_without_untouched_growth_say_so(base, library, corpus, design):
    with pytest.raises(LibraryError, match="no domain comes or goes"):
        grow(Making(base, library, corpus, design, config=QUICK))


def test_a_router_that_knows_other_domains_is_refused(made):
    name = open_record(made).router
    tensors, card = made.library.load_router(name)
    made.library.save_router(name, tensors, {**card, "domains": ["law", "chat"]})
    with pytest.raises(StaleRouter, match="law, chat"):
        open_reward(made.base, made.library, "judge")


def test_a_judge_that_became_another_expert_is_noticed(made):
    other = made.library["judge-code"]
    made.library.remove("judge-law", keep_descendants=True)
    made.library.add(other.renamed("judge-law"))
    with pytest.raises(StaleRouter, match="judge-law became another expert"):
        open_reward(made.base, made.library, "judge")


def test_a_member_that_is_gone_is_named(made):
    made.library.remove("judge-law", keep_descendants=True)
    with pytest.raises(LibraryError, match="the member 'judge-law', which the library lacks"):
        open_reward(made.base, made.library, "judge")


def open_record(made):
    from collegium.rewards import RewardRecord

    return RewardRecord.load(made.library, "judge")
