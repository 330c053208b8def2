"""Which pairs single answers make, and which prompt two answers begin with."""

import itertools
from collections import Counter
from collections.abc import Callable, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import DataError
from collegium.data.documents import Message
from collegium.data.preference_pairing import PAIRS_PER_PROMPT, Paired, pair_up
from collegium.data.preference_rows import Judged
from collegium.data.preferences import Pair, Text
from collegium.data.prompt_prefix import split_prompt

Pairing = Callable[[Sequence[Judged]], Paired]

ANSWERS = st.lists(
    st.builds(
        Judged,
        prompt=st.sampled_from("pq"),
        answer=st.sampled_from("abcdef"),
        worth=st.sampled_from([0.0, 0.5, 1.0]),
        rated=st.booleans(),
        group=st.sampled_from(["", "chat"]),
    ),
    max_size=60,
)


def every_pair(answers: Sequence[Judged]) -> set[tuple[str, str, object, object]]:
    """Return all pairs there could be, by the rule itself: prompt, group, better, worse."""
    worths: dict[tuple[object, ...], set[float]] = {}
    for each in answers:
        worths.setdefault((each.prompt, each.group, each.rated, each.answer), set()).add(each.worth)
    clear = {key: next(iter(found)) for key, found in worths.items() if len(found) == 1}
    return {
        (*one[:3], one[3], other[3])
        for one, other in itertools.permutations(clear, 2)
        if one[:3] == other[:3] and clear[one] > clear[other]
    }


def as_keys(found: Paired) -> list[tuple[object, ...]]:
    return [(each.prompt, each.group, each.margin is not None, each.chosen, each.rejected) for each in found.pairs]


def keeps_the_rules(pairing: Pairing, answers: Sequence[Judged]) -> bool:
    """Whether pairs are those of the rule, at most eight a prompt, as many as there can be, and all else is counted."""
    found, possible = pairing(answers), every_pair(answers)
    keys = as_keys(found)
    counts, most = Counter(key[:3] for key in keys), Counter(key[:3] for key in possible)
    return (
        len(keys) == len(set(keys))
        and set(keys) <= possible
        and counts == {key: min(count, PAIRS_PER_PROMPT) for key, count in most.items()}
        and found.surplus == len(possible) - len(keys)
    )


def dropping(answers: Sequence[Judged]) -> Paired:
    return pair_up(answers, drop_unusable=True)


def backwards(answers: Sequence[Judged]) -> Paired:
    """The broken pairing: the worse over the better."""
    pairs = tuple(
        Pair(each.prompt, each.rejected, each.chosen, each.margin, each.group) for each in dropping(answers).pairs
    )
    return Paired(pairs)


def across_prompts(answers: Sequence[Judged]) -> Paired:
    """The broken pairing: whatever the prompt."""
    return dropping([Judged("p", each.answer, each.worth, each.rated, each.group) for each in answers])


SAMPLE = [
    Judged(prompt, answer, worth, True) for prompt, answer, worth in (("p", "a", 1.0), ("p", "b", 0.0), ("q", "c", 0.0))
]


@given(ANSWERS)
def test_each_better_answer_stands_over_each_worse_one_of_its_prompt(answers: list[Judged]) -> None:
    assert keeps_the_rules(dropping, answers)


def test_the_rules_can_be_broken() -> None:
    assert keeps_the_rules(dropping, SAMPLE)
    assert not keeps_the_rules(backwards, SAMPLE)
    assert not keeps_the_rules(across_prompts, SAMPLE)
    assert not keeps_the_rules(lambda answers: Paired(dropping(answers).pairs[:0]), SAMPLE)


@given(ANSWERS)
def test_every_answer_is_paired_or_counted(answers: list[Judged]) -> None:
    found = dropping(answers)
    texts: dict[tuple[object, ...], set[float]] = {}
    for each in answers:
        texts.setdefault((each.prompt, each.group, each.rated, each.answer), set()).add(each.worth)
    clear = {key: next(iter(worths)) for key, worths in texts.items() if len(worths) == 1}
    prompts = Counter(prompt for prompt, _ in {(key[:3], worth) for key, worth in clear.items()})
    alone = sum(prompts[key[:3]] == 1 for key in clear)
    assert found.alone == alone
    assert found.duplicates + found.unusable + len(clear) == len(answers)


@given(ANSWERS, st.randoms(use_true_random=False))
def test_the_order_of_rows_makes_no_difference(answers: list[Judged], draw: object) -> None:
    shuffled = list(answers)
    draw.shuffle(shuffled)  # pyright: ignore[reportAttributeAccessIssue]
    one, other = dropping(answers), dropping(shuffled)
    assert set(one.pairs) == set(other.pairs)
    assert (one.duplicates, one.unusable, one.alone, one.surplus) == (
        other.duplicates,
        other.unusable,
        other.alone,
        other.surplus,
    )


@given(ANSWERS)
def test_the_margin_is_the_difference_of_ratings(answers: list[Judged]) -> None:
    worths = {(each.prompt, each.group, each.rated, each.answer): each.worth for each in answers}
    for pair in dropping(answers).pairs:
        if pair.margin is not None:
            better, worse = (worths[pair.prompt, pair.group, True, each] for each in (pair.chosen, pair.rejected))
            assert pair.margin == better - worse > 0


def test_many_answers_come_in() -> None:
    found = pair_up([Judged("p", str(n), float(n), True) for n in range(64)])
    assert len(found.pairs) == PAIRS_PER_PROMPT
    assert len({text for each in found.pairs for text in (each.chosen, each.rejected)}) == PAIRS_PER_PROMPT + 1
    assert found.surplus == 64 * 63 // 2 - PAIRS_PER_PROMPT


def test_which_of_many_answers_are_paired_does_not_hang_on_their_order() -> None:
    answers = [Judged("p", str(n), float(n % 3), True) for n in range(20)]
    assert set(pair_up(answers).pairs) == set(pair_up(answers[::-1]).pairs)


def test_ten_thousand_answers_to_one_prompt_are_paired_at_once() -> None:
    for odd in (0.0, 1.0):
        answers = [Judged("p", str(n), 0.0 if n else odd, True) for n in range(10_000)]
        found = pair_up(answers)
        assert (len(found.pairs), found.alone) == ((PAIRS_PER_PROMPT, 0) if odd else (0, 10_000))


def test_ratings_too_far_apart_are_refused() -> None:
    answers = [Judged("p", str(worth), worth, True, origin=f"a:{worth:g}") for worth in (1e308, -1e308)]
    with pytest.raises(DataError, match=r"a:1e\+308 over a:-1e\+308: the difference"):
        pair_up(answers)


HEAD = st.text(st.sampled_from("ab \n:"), max_size=12)


@given(HEAD, HEAD, HEAD)
def test_prompt_and_answer_make_the_text_again(head: str, one: str, other: str) -> None:
    prompt, chosen, rejected = split_prompt(head + one, head + other)
    assert prompt + chosen == head + one
    assert prompt + rejected == head + other


def cuts_at_white_space(split: Callable[[Text, Text], tuple[Text, Text, Text]], first: str, second: str) -> bool:
    """Whether the prompt ends at the last white space that both share, with one blank left to the answers."""
    prompt, chosen, rejected = map(str, split(first, second))
    shared = chosen[: next((n for n in range(len(chosen)) if chosen[: n + 1] != rejected[: n + 1]), None)]
    ends = not prompt or prompt[-1].isspace() or shared.startswith(" ")
    return ends and not any(each.isspace() for each in shared.removeprefix(" "))


@given(HEAD, HEAD, HEAD)
def test_no_word_is_cut_and_no_word_is_left_that_both_share(head: str, one: str, other: str) -> None:
    assert cuts_at_white_space(split_prompt, head + one, head + other)


def test_cutting_words_is_seen() -> None:
    assert cuts_at_white_space(split_prompt, "to be good", "to be glad")
    assert not cuts_at_white_space(lambda one, other: (one[:7], one[7:], other[7:]), "to be good", "to be glad")
    assert not cuts_at_white_space(lambda one, other: (one[:2], one[2:], other[2:]), "to be good", "to be glad")


@given(st.sampled_from(["", "Be kind.\n"]), st.lists(st.sampled_from("ab c"), min_size=1, max_size=3), HEAD, HEAD)
def test_a_prompt_of_turns_ends_behind_the_last_mark_they_share(
    system: str, turns: list[str], one: str, other: str
) -> None:
    prompt = system + "".join(f"\n\nHuman: {each}\n\nAssistant:" for each in turns)
    assert split_prompt(f"{prompt} {one}", f"{prompt} {other}") == (prompt, f" {one}", f" {other}")


def test_the_mark_of_a_turn_stands_at_the_beginning_of_a_line() -> None:
    assert split_prompt("Assistant: a b", "Assistant: a c") == ("Assistant:", " a b", " a c")
    assert split_prompt("The Assistant: a b", "The Assistant: a c") == ("The Assistant: a", " b", " c")


CHAT = st.lists(st.builds(Message, st.sampled_from(["user", "assistant"]), st.sampled_from("ab")), max_size=4)


@given(CHAT, CHAT, CHAT)
def test_chats_share_whole_messages(head: list[Message], one: list[Message], other: list[Message]) -> None:
    first, second = (*head, *one), (*head, *other)
    prompt, chosen, rejected = split_prompt(first, second)
    assert join(prompt, chosen) == first
    assert join(prompt, rejected) == second
    assert len(prompt) >= len(head)
    assert not (chosen and rejected) or chosen[0] != rejected[0]


def join(prompt: Text, answer: Text) -> Text:
    return (*prompt, *answer)  # pyright: ignore[reportReturnType]
