"""`turn`: corruption. A chat so far as lines with speaker letters, its next turn over one of another chat.

The other turn is as long and carries the same speaker's letter. Each chat is cut at one place, once. Chats
whose ratings say something are left to the domain `ratings`, so that the two domains share no chat.
"""

import random
from dataclasses import dataclass
from pathlib import Path

from collegium.data.preference_sources.chats import Chat, read_chats
from collegium.data.preference_sources.drawing import (
    ANSWER_CHARACTERS,
    PAIRS,
    PROMPT_CHARACTERS,
    closing,
    couples,
)
from collegium.data.preferences import Pair

_SHORTEST = 20
_BEFORE = 2


@dataclass(frozen=True)
class _Cut:
    key: str
    before: str
    speaker: str
    words: str


def turn_pairs(archive: Path, seed: int) -> tuple[Pair, ...]:
    """Return the pairs of the chats in the archive; group: the two chats that lend each other their turns."""
    generator = random.Random(seed)
    chats = [each for each in read_chats(archive) if not each.telling]
    cuts = {cut.before: cut for chat in chats if (cut := _cut(chat, generator)) is not None}
    found = couples(list(cuts.values()), lambda each: each.words, generator)
    return tuple(
        Pair(
            f"{own.before}\n",
            f"{own.speaker}: {own.words}",
            f"{own.speaker}: {other.words}",
            group=f"{one.key} and {two.key}",
        )
        for one, two in found[: PAIRS // 2]
        for own, other in ((one, two), (two, one))
    )


def _cut(chat: Chat, generator: random.Random) -> _Cut | None:
    """Return the chat cut before one of its turns; None where no turn has the right length."""
    longest = ANSWER_CHARACTERS - len("A: ")
    places = [
        place for place, (_, words) in enumerate(chat.turns) if place >= _BEFORE and _SHORTEST <= len(words) <= longest
    ]
    generator.shuffle(places)
    for place in places:
        before = closing(chat.lines[:place], PROMPT_CHARACTERS)
        if before.count("\n") + 1 >= _BEFORE:
            return _Cut(chat.key, before, *chat.turns[place])
    return None
