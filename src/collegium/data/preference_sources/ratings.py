"""`ratings`: human ratings. How a chat rated 8 to 10 goes on, over one rated 1 to 3 on the same scale.

The scales are witty, interesting and upbeat; 5 is where the slider stood untouched, and says nothing. Whole chats do
not fit, so the answers are the last lines of the two chats, where a rater's impression shows most. The prompt names the
scale and gives the first line of one of the two chats, drawn by lot: of the preferred one as often as not, so that what
fits the opening is no hint. A chat rated low is often short and broken off; that is part of what the raters judged.
"""

import random
from collections.abc import Sequence
from pathlib import Path

from collegium.data.preference_sources.chats import HIGH, LOW, Chat, read_chats
from collegium.data.preference_sources.drawing import (
    PAIRS,
    PROMPT_CHARACTERS,
    alike,
    closing,
    opening,
)
from collegium.data.preferences import Pair

SCALES = ("interesting", "upbeat", "witty")

ENDING_CHARACTERS = 160
"""The longest ending: more than other answers, for the openings are short."""

_SHORTEST = 30
_OPENING_LINES = 1
_ASK = "Two people chatted, and one of them rated how {scale} it was. It began:\n{opening}\nIt ended:\n"


def ratings_pairs(archive: Path, seed: int) -> tuple[Pair, ...]:
    """Return the pairs of the chats in the archive; group: the chat rated low. Each chat rated high is used once.

    margin: by how many points the ratings differ.
    """
    chats = [each for each in read_chats(archive) if _ending(each)]
    generator = random.Random(seed)
    generator.shuffle(chats)
    used: set[str] = set()
    pairs = []
    for low in chats:
        for scale in SCALES:
            # A chat that is low on one scale may be high on another: it keeps to the group of its low ratings.
            if low.ratings.get(scale) in LOW and (high := _partner(low, chats, scale=scale, used=used)):
                used.add(high.key)
                pairs.append(_pair(high, low, scale=scale, first=generator.choice((high, low))))
    generator.shuffle(pairs)
    return tuple({each.prompt: each for each in pairs[:PAIRS]}.values())


def _partner(low: Chat, chats: Sequence[Chat], *, scale: str, used: set[str]) -> Chat | None:
    """Return the unused chat rated high on the scale, and low on none, whose end is most nearly as long."""
    high = [each for each in chats if each.ratings.get(scale) in HIGH and not _rated_low(each)]
    fitting = [each for each in high if each.key not in used and alike(_ending(each), _ending(low))]
    return min(fitting, key=lambda each: abs(len(_ending(each)) - len(_ending(low))), default=None)


def _rated_low(chat: Chat) -> bool:
    return any(chat.ratings.get(scale) in LOW for scale in SCALES)


def _pair(high: Chat, low: Chat, *, scale: str, first: Chat) -> Pair:
    room = PROMPT_CHARACTERS - len(_ASK.format(scale=scale, opening=""))
    begun = opening(first.lines[:_OPENING_LINES], room, between="\n") or first.lines[0][:room]
    return Pair(
        _ASK.format(scale=scale, opening=begun),
        _ending(high),
        _ending(low),
        margin=float(high.ratings[scale] - low.ratings[scale]),
        group=low.key,
    )


def _ending(chat: Chat) -> str:
    """Return the last lines that fit and do not belong to the opening; nothing where they say too little."""
    text = closing(chat.lines[_OPENING_LINES:], ENDING_CHARACTERS)
    return text if len(text) >= _SHORTEST else ""
