"""What is said of preference data: leaks are found and nothing else is, and numbers add up."""

import json
import random
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data import Message, Pair, PairCorpus, PairDomain, PairSplit, describe_preferences
from collegium.data.preference_leaks import Leaks, find_leaks

Finder = Callable[[Mapping[str, PairSplit]], Leaks]


def prose(seed: int, words: int = 60) -> str:
    draw = random.Random(seed)
    return " ".join("".join(draw.choices("abcdefghijklmnop", k=draw.randint(2, 9))) for _ in range(words))


def pair(prompt: Any, *, origin: str = "", chosen: str = "", rejected: str = "") -> Pair:
    return Pair(prompt, chosen or f"good {origin}", rejected or f"bad {origin}", origin=origin)


def leaking() -> dict[str, PairSplit]:
    """Two domains; of six test prompts three are in train or dev in other clothes, one of them in both domains."""
    law = PairSplit(
        train=(
            pair(f"some other words before it {prose(3)} and behind", origin="law, somewhat like 3"),
            *(pair(prose(n), origin=f"law train {n}") for n in range(6)),
        ),
        dev=(pair(prose(10), origin="law dev"),),
        test=(pair(prose(10).upper(), origin="equals dev"), pair(prose(20), origin="clean")),
    )
    code = PairSplit(
        train=(pair(prose(30), origin="code train"), pair(prose(3) + " more", origin="code train 3")),
        dev=(),
        test=(
            pair(f"{prose(3)} again", origin="resembles two"),
            pair(prose(1).replace(" ", "\n") + " x", origin="resembles law"),
            pair(prose(1, 30) + prose(40), origin="begins like law"),
            pair(prose(20), origin="equals test"),
        ),
    )
    return {"law": law, "code": code}


WANTED = {
    ("law", "law", "law dev", "equals dev"),
    ("law", "code", "law train 3", "resembles two"),
    ("code", "code", "code train 3", "resembles two"),
    ("law", "code", "law train 1", "resembles law"),
}


def finds_them(finder: Finder) -> bool:
    found = finder(leaking())
    return {(*each.domains, *each.origins) for each in found.found} == WANTED and found.prompts == {"law": 1, "code": 2}


def own_domain_only(splits: Mapping[str, PairSplit]) -> Leaks:
    """The broken search: each domain for itself."""
    parts = [find_leaks({name: split}) for name, split in splits.items()]
    return Leaks(tuple(each for part in parts for each in part.found), {}, {})


def train_for_test(splits: Mapping[str, PairSplit]) -> Leaks:
    """The broken search: parts in the wrong places."""
    return find_leaks({name: PairSplit(each.test, each.dev, each.train) for name, each in splits.items()})


def test_leaks_are_found_and_no_others() -> None:
    assert finds_them(find_leaks)
    assert not finds_them(own_domain_only)
    assert not finds_them(train_for_test)
    similarities = [each.similarity for each in find_leaks(leaking()).found]
    assert similarities == sorted(similarities, reverse=True)
    assert similarities[0] == 1.0 > similarities[1] > 0.8


def test_equal_prompts_are_never_missed_among_many_half_alike() -> None:
    # Whatever the search looks at first, an earlier prompt has that part, too, and differs elsewhere.
    words, draw = prose(1, 100).split(), random.Random(0)
    decoys = [
        [*words[:cut], *prose(n, 15).split(), *words[cut + 15 :]] for n in range(300) for cut in [draw.randrange(85)]
    ]
    train = (*(pair(" ".join(each)) for each in decoys), pair(" ".join(words), origin="equal"))
    (found,) = find_leaks({"sums": PairSplit(train, (), (pair(" ".join(words)),))}).found
    assert (found.origins[0], found.similarity) == ("equal", 1.0)


def test_leaks_are_counted_without_origins() -> None:
    train = tuple(Pair(str(n), "a", "b") for n in range(4))
    assert find_leaks({"law": PairSplit(train, (), train[:3])}).prompts == {"law": 3}


def test_a_system_message_that_all_share_is_no_leak() -> None:
    system = Message("system", prose(7, 400))
    train = (pair((system, Message("user", prose(1, 9)))),)
    for asked, leaks in ((prose(2, 9), 0), (prose(1, 9), 1)):
        for test in ((system, Message("user", asked)), (Message("user", asked),)):
            assert find_leaks({"chat": PairSplit(train, (), (pair(test),))}).prompts == {"chat": leaks}
    alone = pair((system,))
    assert find_leaks({"chat": PairSplit((alone,), (), (alone,))}).prompts == {"chat": 1}


def test_answers_that_test_shares_with_any_domain_are_counted() -> None:
    law = PairSplit((Pair("a", "one", "two"),), (Pair("b", "three", "four"),), (Pair("c", "two ", "new"),))
    code = PairSplit((Pair("d", "five", "six"),), (), (Pair("e", "one", "three"), Pair("f", "one", "new")))
    assert find_leaks({"law": law, "code": code}).answers == {"law": 1, "code": 2}


def pairs(count: int) -> tuple[Pair, ...]:
    return tuple(Pair(f"{prose(n)}?", f"good {n}", f"bad {n}") for n in range(count))


def test_pairs_of_groups_leak_nothing_but_equal_prompts() -> None:
    many = tuple(Pair(f"same {n % 2}", f"a {n}", f"b {n}", group=f"chat {n}") for n in range(40))
    (found,) = describe_preferences(PairCorpus((PairDomain("chat", many),))).domains
    assert (found.prompts, found.groups, found.leaks) == (2, 40, 2)
    (found,) = describe_preferences(PairCorpus((PairDomain("law", pairs(40)),))).domains
    assert (found.prompts, found.groups, found.leaks) == (40, 40, 0)


def test_a_description_adds_up(chat_bytes: Any) -> None:
    chat = (Message("user", "hi"),), (Message("assistant", "hello"),), (Message("assistant", "no"),)
    law = PairDomain(
        "law",
        (
            Pair("p", "xxxx", "yy"),
            Pair("p", "yy", "xxxx"),
            Pair("q", "xx", "yyyyyyyyyyyy"),
            Pair("r", "xx", "yy"),
            Pair(*chat),
        ),
        kind="ratings",
        sources=(Source("court", "CC0"),),
        duplicates=2,
        unusable=1,
        alone=4,
        surplus=3,
    )
    small = PairDomain("small", (Pair("p", "a", "b"),))
    found = describe_preferences(PairCorpus((law, small)), chat_bytes, context_tokens=10)
    first, second = found.domains
    assert (first.name, first.kind, first.pairs, first.prompts, first.groups) == ("law", "ratings", 5, 4, 4)
    assert sum((first.split or {}).values()) == 5
    assert (first.duplicates, first.unusable, first.alone, first.surplus) == (2, 1, 4, 3)
    assert (first.contradictions, second.contradictions) == (1, 0)
    assert (first.lengths.chosen_longer, first.lengths.matched) == (2 / 5, 1 / 5)
    assert (first.lengths.rule, first.lengths.rule_accuracy) == ("longer", 0.5)
    assert (first.lengths.chosen, first.lengths.rejected) == (15 / 5, 22 / 5)
    assert first.tokens is not None
    assert (first.tokens.longest, first.tokens.context) == (len("<user\nhi>\n<assistant\nhello>\n"), 10)
    assert first.tokens.over_context == 2 / 5
    assert (second.split, second.leaks, second.shared_answers) == (None, None, None)
    plain = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert plain["domains"][0]["sources"][0]["licence"] == "CC0"
    assert plain["domains"][0]["lengths"]["rule"] == "longer"


@pytest.mark.parametrize(
    ("chosen", "rejected", "rule", "accuracy"), [("xx", "y", "longer", 1), ("x", "yy", "shorter", 1)]
)
def test_the_better_rule_is_told(chosen: str, rejected: str, rule: str, accuracy: float) -> None:
    many = tuple(Pair(str(n), chosen, rejected) for n in range(4))
    lengths = describe_preferences(PairCorpus((PairDomain("law", many),))).domains[0].lengths
    assert (lengths.rule, lengths.rule_accuracy) == (rule, accuracy)


def test_without_a_tokenizer_tokens_are_unknown(plain_bytes: Any) -> None:
    corpus = PairCorpus((PairDomain("law", (Pair((Message("user", "a"),), (Message("assistant", "b"),), ()),)),))
    assert describe_preferences(corpus).domains[0].tokens is None
    with pytest.raises(DataError, match="chat template"):
        describe_preferences(corpus, plain_bytes)


def test_a_tokenizer_that_knows_no_limit_gives_none(plain_bytes: Any) -> None:
    corpus = PairCorpus((PairDomain("law", pairs(3)),))
    for limit, context, over in ((10**30, None, None), (8, 8, 1.0), (10**6, 10**6, 0.0)):
        plain_bytes.model_max_length = limit
        tokens = describe_preferences(corpus, plain_bytes).domains[0].tokens
        assert tokens is not None
        assert (tokens.context, tokens.over_context) == (context, over)
