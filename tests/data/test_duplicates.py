"""Near-duplicates across domains are found, others are not, and the report adds up."""

import json
import random
from collections.abc import Callable
from typing import Any

import pytest

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data import Corpus, Document, Domain, Message, NearDuplicate, describe, near_duplicates
from collegium.data.duplicates import resemblance

Finder = Callable[[Corpus], tuple[NearDuplicate, ...]]


def prose(seed: int, words: int = 300) -> list[str]:
    draw = random.Random(seed)
    return ["".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(words)]


def corpus() -> Corpus:
    """Two domains of 20 documents; three are shared, in other clothes, and two more share three words in four."""
    shared = [prose(seed) for seed in (100, 101, 102)]
    law = [prose(seed) for seed in range(17)] + shared
    changed = [[word.upper() for word in shared[0]], [*shared[1][:150], "new", *shared[1][150:]], shared[2]]
    code = [prose(seed) for seed in range(50, 66)] + [law[3][:225] + prose(99, 75)] + changed
    return Corpus(
        (
            Domain("law", tuple(Document(text=" ".join(text), origin=f"law/{n}") for n, text in enumerate(law))),
            Domain("code", tuple(Document(text="\n".join(text), origin=f"code/{n}") for n, text in enumerate(code))),
        )
    )


def exact_copies(corpus: Corpus) -> tuple[NearDuplicate, ...]:
    """The broken search: equal text alone."""
    law, code = corpus
    return tuple(
        NearDuplicate((law.name, code.name), (one.origin, other.origin), 1.0)
        for one in law.documents
        for other in code.documents
        if one.plain == other.plain
    )


def everything_alike(corpus: Corpus) -> tuple[NearDuplicate, ...]:
    """The broken search: somewhat the same is the same."""
    return near_duplicates(corpus, threshold=0.2)


def finds_the_three(finder: Finder) -> bool:
    wanted = {("law/17", "code/17"), ("law/18", "code/18"), ("law/19", "code/19")}
    return {each.origins for each in finder(corpus())} == wanted


def test_documents_in_other_clothes_are_found_and_no_others() -> None:
    assert finds_the_three(near_duplicates)
    assert not finds_the_three(exact_copies)
    assert not finds_the_three(everything_alike)
    similarities = [each.similarity for each in near_duplicates(corpus())]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[1] == 1.0
    assert 0.9 < similarities[2] < 1.0


def test_the_search_misses_none_of_the_exact_comparison() -> None:
    draw = random.Random(0)
    law, code = [], []
    for seed in range(60):
        words = prose(seed, 120)
        law.append(Document(text=" ".join(words)))
        for _ in range(draw.randrange(8)):
            words[draw.randrange(120)] = "other"
        code.append(Document(text=" ".join(words), origin=str(seed)))
    alike = {right.origin for left, right in zip(law, code, strict=True) if resemblance(left, right) >= 0.8}
    found = near_duplicates(Corpus((Domain("law", tuple(law)), Domain("code", tuple(code)))))
    assert 5 < len(alike) < 60
    assert {each.origins[1] for each in found} == alike


def test_short_texts_are_compared_whole() -> None:
    law = Domain("law", (Document(text="Pay rent."), Document(text="")))
    code = Domain("code", (Document(text="pay  RENT."), Document(text="Pay rents.")))
    (found,) = near_duplicates(Corpus((law, code)))
    assert found.similarity == 1.0


def test_copies_inside_a_domain_are_not_its_business() -> None:
    document = Document(text=" ".join(prose(1)))
    twice = Domain("law", (document, Document(text=" ".join([*prose(1), "more"]))))
    assert near_duplicates(Corpus((twice,))) == ()
    assert near_duplicates(Corpus((twice, Domain("code", (Document(text="other"),))))) == ()


def test_a_description_adds_up(chat_bytes: Any) -> None:
    law = Domain(
        "law",
        (
            Document(text="née law", origin="a"),
            Document(prompt="2+2=", completion="4", origin="b"),
            Document(messages=(Message("user", "hi"), Message("assistant", "ho ho")), origin="c"),
        ),
        (Source("court", "CC0"),),
        duplicates=2,
        empty=1,
    )
    small = Domain("small", (Document(text="née law", origin="d"),))
    description = describe(Corpus((law, small)), chat_bytes)
    first, second = description.domains
    assert (first.documents, first.characters, first.words, first.bytes) == (3, 20, 6, 21)
    assert first.kinds == {"chat": 1, "pair": 1, "text": 1}
    assert first.tokens == 8 + 6 + len("<user\nhi>\n<assistant\nho ho>\n")
    assert first.split == {"train": 1, "dev": 1, "test": 1}
    assert (first.duplicates, first.empty) == (2, 1)
    assert (first.longest.origin, first.shortest.origin) == ("c", "b")
    assert second.split is None
    assert [each.origins for each in description.near_duplicates] == [("a", "d")]
    plain = json.loads(json.dumps(description.to_dict()))
    assert plain["domains"][0]["sources"][0]["licence"] == "CC0"


def test_without_a_tokenizer_tokens_are_unknown(plain_bytes: Any) -> None:
    corpus = Corpus((Domain("law", (Document(messages=(Message("assistant", "a"),)),)),))
    assert describe(corpus).domains[0].tokens is None
    with pytest.raises(DataError, match="chat template"):
        describe(corpus, plain_bytes)


def test_an_empty_domain_is_described() -> None:
    (empty,) = describe(Corpus((Domain("law", ()),))).domains
    assert (empty.documents, empty.longest.characters, empty.split) == (0, 0, None)
