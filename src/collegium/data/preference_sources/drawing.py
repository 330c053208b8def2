"""What all sources of pairs share: how long texts are, and how answers are matched in length."""

import random
import re
from collections.abc import Callable, Iterable, Sequence
from typing import TypeVar

from collegium.data.preferences import Pair

PAIRS = 2000
"""The most pairs of a domain."""

PROMPT_CHARACTERS = 240
ANSWER_CHARACTERS = 120
"""The longest prompt and answer: with both at their longest, a pair of English text has about 96 tokens."""

Item = TypeVar("Item")

_SENTENCE_END = re.compile(r"(?<=[.!?])['\")]*\s+(?=[A-Z\"'(])")


def sentences(text: str) -> list[str]:
    """Return a text's sentences, white space made plain; abbreviations before a capital letter are cut, too.

    >>> sentences("A film.  It\\nworks! see?")
    ['A film.', 'It works! see?']
    """
    return [" ".join(each.split()) for each in _SENTENCE_END.split(text) if each.strip()]


def opening(parts: Iterable[str], limit: int, *, between: str = " ") -> str:
    """Return as many whole parts from the first on as fit into so many characters; "" when the first does not.

    >>> opening(["one", "two", "three"], 8)
    'one two'
    """
    text = ""
    for part in parts:
        longer = f"{text}{between}{part}" if text else part
        if len(longer) > limit:
            break
        text = longer
    return text


def closing(parts: Sequence[str], limit: int, *, between: str = "\n") -> str:
    """Return as many whole parts up to the last as fit into so many characters; "" when the last does not.

    >>> closing(["one", "two", "three"], 9, between=" ")
    'two three'
    """
    for start in range(len(parts)):
        text = between.join(parts[start:])
        if len(text) <= limit:
            return text
    return ""


def alike(first: str, second: str) -> bool:
    """Return whether two different answers are as long as each other, to a tenth."""
    return first != second and Pair("", first, second).length_matched


def couples(items: Sequence[Item], answer: Callable[[Item], str], generator: random.Random) -> list[tuple[Item, Item]]:
    """Return twos of items whose answers are alike in length, each item in one at most, in random order.

    From a couple (x, y) come two pairs: x's prompt prefers x's answer over y's, y's the reverse. So each answer is
    preferred as often as not, and a judge that does not read the prompt is right in exactly half of them.
    """
    waiting = _by_length(items, answer, generator)
    found = []
    while len(waiting) > 1:
        last, before = waiting.pop(), waiting[-1]
        if alike(answer(last), answer(before)):
            found.append((waiting.pop(), last))
    generator.shuffle(found)
    return found


def matched(chosen: Sequence[str], rejected: Sequence[str], generator: random.Random) -> list[tuple[str, str]]:
    """Return (chosen, rejected) of exactly the same length, each text in one at most, in random order."""
    waiting: dict[int, list[str]] = {}
    for text in generator.sample(rejected, len(rejected)):
        waiting.setdefault(len(text), []).append(text)
    found = []
    for text in generator.sample(chosen, len(chosen)):
        if fitting := [each for each in waiting.get(len(text), []) if each != text][-1:]:
            waiting[len(text)].remove(fitting[0])
            found.append((text, fitting[0]))
    return found


def _by_length(items: Sequence[Item], answer: Callable[[Item], str], generator: random.Random) -> list[Item]:
    drawn = list(items)
    generator.shuffle(drawn)
    return sorted(drawn, key=lambda each: len(answer(each)))
