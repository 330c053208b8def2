"""Diversity against a public implementation of BLEU, and its bounds."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nltk.translate.bleu_score import SmoothingFunction, sentence_bleu

from collegium.align.diversity import distinct_each, self_bleu_each
from collegium.align.features import words_of
from collegium.core.errors import DataError

TEXTS = st.lists(st.lists(st.sampled_from("abcd"), min_size=1, max_size=9).map(" ".join), min_size=2, max_size=6)


def self_bleu(texts: list[str]) -> float:
    each = self_bleu_each(texts)
    return sum(each) / len(each)


def distinct(texts: list[str], n: int) -> float:
    each = distinct_each(texts, n)
    return sum(each) / len(each)


def public(texts: list[str]) -> float:
    said, found = [words_of(text) for text in texts], []
    for at, words in enumerate(said):
        known = min(5, len(words))
        others = said[:at] + said[at + 1 :]
        smooth = SmoothingFunction().method1
        found.append(sentence_bleu(others, words, [1 / known] * known, smoothing_function=smooth))
    return sum(found) / len(found)


@given(TEXTS)
def test_self_bleu_is_that_of_a_public_implementation(texts: list[str]) -> None:
    ours, theirs = self_bleu(texts), public(texts)
    if any(
        set(text.split()).isdisjoint(" ".join(texts[:at] + texts[at + 1 :]).split()) for at, text in enumerate(texts)
    ):
        assert ours >= theirs - 1e-12  # theirs is 0 for a text that shares no word at all
    else:
        assert ours == pytest.approx(theirs)


@given(TEXTS)
def test_bounds_and_order(texts: list[str]) -> None:
    assert 0 <= self_bleu(texts) <= 1 + 1e-12
    assert self_bleu(texts) == pytest.approx(self_bleu(texts[::-1]))
    assert self_bleu([texts[0]] * 3) == pytest.approx(1.0)
    assert 0 <= distinct(texts, 2) <= 1
    assert 0 < distinct(texts, 1) <= 1


def test_words_are_counted_and_not_characters() -> None:
    assert self_bleu(["abcdefgh", "abcdefgi"]) < 0.2
    assert distinct(["one, One one"], 1) == pytest.approx(1 / 3)


def test_too_few_texts_are_refused() -> None:
    with pytest.raises(DataError, match="two at least"):
        self_bleu(["alone"])
