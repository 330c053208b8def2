"""`chat`: chats between two people. How was it rated, which reply was given, what was replied? Group: the chat.

rating        the end of a chat  ->  whether it was rated interesting (8 to 10) or dull (1 to 3)
reply-choice  a chat so far  ->  its next turn, against one of another chat that is about as long
reply         a chat so far  ->  its next turn
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from collegium.data.preference_sources.chats import HIGH, LOW, Chat, read_chats
from collegium.data.preference_sources.drawing import closing
from collegium.data.task_sources.rows import SourceRow, some_rows

CONTEXT_CHARACTERS = 180
"""The longest stretch of a chat that is read."""
REPLY_CHARACTERS = 90
_SHORTEST = 12
_RATED = " interesting", " dull"


def chat_tasks(archive: Path) -> Mapping[str, tuple[SourceRow, ...]]:
    """Return the tasks of the chats in an archive."""
    return tasks_of_chats(read_chats(archive), seed=0)


def tasks_of_chats(chats: Sequence[Chat], *, seed: int) -> Mapping[str, tuple[SourceRow, ...]]:
    """Return the tasks of chats; each chat is cut at one place for each of the two tasks of replies."""
    generator = random.Random(seed)
    replies = [row for chat in chats if (row := _cut(chat, generator)) is not None]
    choices = [row for chat in chats if (row := _cut(chat, generator)) is not None]
    return {
        "rating": some_rows(_rated(chats, generator), generator),
        "reply": some_rows(replies, generator),
        "reply-choice": some_rows(_against(choices), generator),
    }


def _rated(chats: Sequence[Chat], generator: random.Random) -> Iterator[SourceRow]:
    """Yield as many interesting chats as dull ones, each scale's middle left out."""
    found: dict[str, list[SourceRow]] = {label: [] for label in _RATED}
    for chat in chats:
        rating, end = chat.ratings.get("interesting"), closing(chat.lines, CONTEXT_CHARACTERS)
        if end and (rating in HIGH or rating in LOW):
            label = _RATED[rating in LOW]
            found[label].append(SourceRow(chat.key, f"{end}\nThe chat was", label, _RATED))
    least = min(map(len, found.values()))
    for rows in found.values():
        yield from generator.sample(rows, least)


def _cut(chat: Chat, generator: random.Random) -> SourceRow | None:
    """Return a chat up to one of its turns; None where no turn has the right length."""
    places = [
        place for place, (_, words) in enumerate(chat.turns) if place and _SHORTEST <= len(words) <= REPLY_CHARACTERS
    ]
    if not places:
        return None
    place = generator.choice(places)
    before, (speaker, words) = closing(chat.lines[:place], CONTEXT_CHARACTERS), chat.turns[place]
    return SourceRow(chat.key, f"{before}\n{speaker}:", f" {words}") if before else None


def _against(rows: Sequence[SourceRow]) -> Iterator[SourceRow]:
    """Yield rows with the reply of another chat of the same part as the other choice: neighbours in length."""
    for tested in (False, True):
        own = sorted((row for row in rows if row.tested is tested), key=lambda row: (len(row.completion), row.prompt))
        for row, other in zip(own[0::2], own[1::2], strict=False):
            for one, two in ((row, other), (other, row)):
                if one.completion != two.completion:
                    both = sorted((one.completion, two.completion))
                    yield SourceRow(one.group, one.prompt, one.completion, tuple(both))
