"""Synthetic preferences: the rule decides, the prompt tells the domain, nothing else tells anything."""

from collections import Counter

import pytest

from collegium.core.errors import DataError
from collegium.data import conflicting_domains, toy_domains
from collegium.data.synthetic_preferences import LONGEST


def words(domain, *sides):
    return [word for pair in domain.pairs for side in sides for word in getattr(pair, side).split()]


@pytest.mark.parametrize("corpus", [conflicting_domains(300), toy_domains(12, 300)], ids=["conflicting", "toy"])
def test_texts_are_short_prompts_differ_and_every_part_of_the_split_is_there(corpus):
    for domain in corpus:
        assert domain.kind == "synthetic"
        assert len(domain.pairs) == len({each.prompt for each in domain.pairs}) == 300
        assert max(len(each.prompt + side) for each in domain.pairs for side in (each.chosen, each.rejected)) <= LONGEST
        assert all(each.chosen != each.rejected for each in domain.pairs)
        split = domain.split()
        assert min(map(len, (split.train, split.dev, split.test))) >= 10


@pytest.mark.parametrize("make", [conflicting_domains, lambda **options: toy_domains(3, **options)])
def test_the_seed_decides(make):
    assert make(pairs=20, seed=1) == make(pairs=20, seed=1) != make(pairs=20, seed=2)


def test_one_domain_prefers_the_longer_answer_and_the_other_the_shorter():
    longer, shorter = conflicting_domains(300)
    assert all(len(each.chosen) > len(each.rejected) for each in longer.pairs)
    assert all(len(each.chosen) < len(each.rejected) for each in shorter.pairs)


def test_answers_of_both_domains_are_drawn_alike():
    longer, shorter = conflicting_domains(500)
    for one, two in (("chosen", "rejected"), ("rejected", "chosen")):
        here, there = Counter(words(longer, one)), Counter(words(shorter, two))
        assert here.keys() == there.keys()
        assert all(abs(here[word] - there[word]) < 5 * here[word] ** 0.5 for word in here)


def test_a_prompt_tells_its_domain():
    things = [
        {word for each in domain.pairs for word in each.prompt.split()[2:3]} for domain in conflicting_domains(500)
    ]
    assert not things[0] & things[1]
    subjects = [{each.prompt.split()[0] for each in domain.pairs} for domain in toy_domains(12, 100)]
    assert sum(map(len, subjects)) == len(set.union(*subjects)) == 48


def test_the_preferred_answer_holds_the_domains_word_and_the_other_anothers_in_its_place():
    corpus = toy_domains(5, 200)
    for domain in corpus:
        seen = set()
        for pair in domain.pairs:
            different = [
                each for each in zip(pair.chosen.split(), pair.rejected.split(), strict=True) if each[0] != each[1]
            ]
            assert [one for one, _ in different] == [domain.name]
            seen.add(different[0][1])
            assert pair.length_matched
            assert len(pair.chosen) == len(pair.rejected)
        assert set(corpus.names) - {domain.name} < seen


def test_a_domain_is_the_same_whatever_else_is_asked_for():
    assert toy_domains(2, 50)["gold"] == toy_domains(9, 50)["gold"]


@pytest.mark.parametrize("make", [lambda: toy_domains(0), lambda: toy_domains(13), lambda: toy_domains(2, 4000)])
def test_more_than_there_is_is_refused(make):
    with pytest.raises(DataError, match="Ask for fewer"):
        make()
    with pytest.raises(DataError, match="1 to 576 pairs, got 577"):
        conflicting_domains(577)
