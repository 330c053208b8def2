"""Pairs: their split depends on the prompt alone, or on what it was taken from."""

import random

import pytest

from collegium.core.errors import DataError
from collegium.data.documents import Message
from collegium.data.preferences import Pair, PairCorpus, PairDomain, take_pairs


def pairs(count, answers=1, **fields):
    return tuple(
        Pair(f"question {n}", f"good {n} {answer}", f"bad {n} {answer}", **fields)
        for n in range(count)
        for answer in range(answers)
    )


def test_all_pairs_of_a_prompt_stand_in_one_part():
    split = PairDomain("law", pairs(100, answers=3)).split()
    parts = [{each.prompt for each in part} for part in (split.train, split.dev, split.test)]
    assert sum(map(len, parts)) == 100
    assert set.union(*parts) == {f"question {n}" for n in range(100)}
    assert len(split.train) + len(split.dev) + len(split.test) == 300


def test_all_pairs_of_a_group_stand_in_one_part():
    many = tuple(Pair(f"question {n}", "good", "bad", group=f"chat {n % 20}") for n in range(200))
    split = PairDomain("chat", many).split()
    parts = [{each.group for each in part} for part in (split.train, split.dev, split.test)]
    assert sum(map(len, parts)) == 20


def test_a_pair_keeps_its_place_whatever_the_others_are():
    many = list(pairs(300))
    whole = PairDomain("law", tuple(many)).split()
    random.Random(0).shuffle(many)
    half = PairDomain("law", tuple(many[:150])).split()
    for part in ("train", "dev", "test"):
        assert set(getattr(half, part)) == set(getattr(whole, part)) & set(many[:150])


@pytest.mark.parametrize("count", range(3, 12))
def test_no_part_is_empty(count):
    split = PairDomain("law", pairs(count)).split()
    assert split.train
    assert split.dev
    assert split.test


def test_under_three_prompts_is_refused():
    with pytest.raises(DataError, match="2 different prompts"):
        PairDomain("law", pairs(2, answers=9)).split()


def test_the_hash_is_the_prompts_alone():
    assert Pair("a", "b", "c").hash == Pair("a", "x", "y", margin=1.0).hash != Pair("b", "b", "c").hash
    chat = (Message("user", "a"),)
    assert Pair(chat, "b", "c").hash == Pair(chat, "x", "y").hash != Pair("a", "b", "c").hash


def test_length_matched_means_within_a_tenth_of_the_longer():
    assert Pair("p", "x" * 100, "y" * 90).length_matched
    assert not Pair("p", "x" * 100, "y" * 89).length_matched
    assert Pair("p", "x" * 90, "y" * 100).length_matched


def test_taking_some_pairs_prefers_different_prompts():
    chosen = take_pairs(pairs(10, answers=4), 10)
    assert len({each.prompt for each in chosen}) == 10
    assert take_pairs(pairs(10, answers=4)[::-1], 10) == chosen
    assert len(take_pairs(pairs(10, answers=4), 25)) == 25
    assert len(take_pairs(pairs(10), None)) == 10


def test_a_corpus_has_each_name_once_and_names_the_nearest():
    corpus = PairCorpus((PairDomain("law", pairs(3)), PairDomain("code", pairs(3))))
    assert corpus.only(["code"]).names == ("code",)
    with pytest.raises(DataError, match="law"):
        corpus["laws"]
    with pytest.raises(DataError, match="twice"):
        PairCorpus((PairDomain("law", pairs(3)), PairDomain("law", pairs(3))))
    with pytest.raises(DataError, match="domain"):
        PairDomain("../law", pairs(3))
