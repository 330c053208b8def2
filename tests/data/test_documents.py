"""The split depends on content alone, and every document has one place."""

import random
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import DataError
from collegium.data import Corpus, Document, Domain, Message, Split

Splitter = Callable[[Domain], Split]


def domain(count: int, *, seed: int = 0) -> Domain:
    documents = [Document(text=f"document {number} of {seed}") for number in range(count)]
    random.Random(seed).shuffle(documents)
    return Domain("law", tuple(documents))


def by_position(domain: Domain) -> Split:
    """The broken split: a document's place depends on where it stands."""
    parts: dict[int, list[Document]] = {0: [], 1: [], 2: []}
    for place, document in enumerate(domain.documents):
        parts[min(place % 10, 2)].append(document)
    return Split(tuple(parts[2]), tuple(parts[1]), tuple(parts[0]))


def is_stable(split: Splitter) -> bool:
    """Whether each document stays in its part when documents are reordered, and when others go."""
    whole = domain(60)
    turned = Domain("law", tuple(reversed(whole.documents)))
    parts, again = split(whole), split(turned)
    same = all({*getattr(parts, part)} == {*getattr(again, part)} for part in ("train", "dev", "test"))
    fewer = split(Domain("law", whole.documents[7:]))
    return same and {*fewer.test} <= {*parts.test} and {*fewer.dev} <= {*parts.dev}


def test_the_split_is_stable_under_reordering_and_removal() -> None:
    assert is_stable(Domain.split)
    assert not is_stable(by_position)


@given(st.integers(3, 40), st.integers(0, 30))
def test_every_document_has_one_place_and_no_part_is_empty(count: int, seed: int) -> None:
    whole = domain(count, seed=seed)
    parts = whole.split()
    together = [*parts.train, *parts.dev, *parts.test]
    assert sorted(each.hash for each in together) == sorted(each.hash for each in whole.documents)
    assert parts.train
    assert parts.dev
    assert parts.test


def test_the_hash_modulo_ten_decides() -> None:
    parts = domain(300).split()
    assert {int(each.hash, 16) % 10 for each in parts.test} == {0}
    assert {int(each.hash, 16) % 10 for each in parts.dev} == {1}
    assert {int(each.hash, 16) % 10 for each in parts.train} == set(range(2, 10))


def test_an_empty_test_and_dev_take_the_lowest_remaining_hashes() -> None:
    train = [each for each in domain(60).documents if int(each.hash, 16) % 10 > 1][:5]
    lowest = sorted(train, key=lambda each: each.hash)
    parts = Domain("law", tuple(train)).split()
    assert parts.test == (lowest[0],)
    assert parts.dev == (lowest[1],)
    assert set(parts.train) == set(lowest[2:])


@pytest.mark.parametrize("residues", [(0, 0, 0), (1, 1, 1), (1, 1, 2), (0, 0, 1), (0, 1, 1)])
def test_three_documents_are_one_each_whatever_their_hashes(residues: tuple[int, ...]) -> None:
    pool = list(domain(400).documents)
    chosen: list[Document] = []
    for residue in residues:
        chosen.append(next(x for x in pool if int(x.hash, 16) % 10 == residue and x not in chosen))
    parts = Domain("law", tuple(chosen)).split()
    assert (len(parts.train), len(parts.dev), len(parts.test)) == (1, 1, 1)


def test_under_three_documents_say_the_rule_and_the_way_out() -> None:
    with pytest.raises(DataError, match=r"'law' has 2 documents; at least 3 .* blank lines"):
        domain(2).split()


def test_a_hash_is_of_the_content_alone() -> None:
    assert Document(text="a", origin="x").hash == Document(text="a", origin="y").hash
    assert Document(text="a", origin="x") == Document(text="a", origin="y")
    different = {
        Document(text="ab").hash,
        Document(prompt="a", completion="b").hash,
        Document(prompt="", completion="ab").hash,
        Document(messages=(Message("user", "ab"),)).hash,
        Document(messages=(Message("assistant", "ab"),)).hash,
    }
    assert len(different) == 5


@pytest.mark.parametrize(
    "fields", [{}, {"text": "a", "prompt": "b", "completion": "c"}, {"prompt": "a"}, {"text": "a", "completion": "b"}]
)
def test_a_document_is_exactly_one_thing(fields: dict[str, Any]) -> None:
    with pytest.raises(DataError, match="exactly one"):
        Document(**fields)


def test_a_card_lists_train_and_dev() -> None:
    parts = domain(50).split()
    assert set(parts.hashes) == {"train", "dev"}
    assert parts.hashes["dev"] == tuple(each.hash for each in parts.dev)


@pytest.mark.parametrize("name", ["base", "../x", "a/b", "", ".hidden", "x" * 65, "two words"])
def test_a_domain_is_named_like_an_expert(name: str) -> None:
    with pytest.raises(DataError, match="name"):
        Domain(name, ())


def test_a_corpus_finds_domains_by_name() -> None:
    corpus = Corpus((Domain("law", ()), Domain("code", ())))
    assert corpus["code"].name == "code"
    assert [each.name for each in corpus] == ["law", "code"]
    with pytest.raises(DataError, match="Did you mean 'law'"):
        corpus["laws"]
    with pytest.raises(DataError, match="law comes twice"):
        Corpus((Domain("law", ()), Domain("law", ())))
