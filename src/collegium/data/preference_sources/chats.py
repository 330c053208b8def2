"""Chats between two people, as the archive of `chitchat-dataset` holds them."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.core.errors import DataError
from collegium.core.parcels import read_members
from collegium.data.texts import decode_text

LOW, HIGH = range(1, 4), range(8, 11)
"""The ratings that say something; in between stands 5, where the slider is when nobody touches it."""


@dataclass(frozen=True)
class Chat:
    """A chat of two: its key, its turns as (speaker letter, words), and its ratings by scale, from 1 to 10."""

    key: str
    turns: tuple[tuple[str, str], ...]
    ratings: Mapping[str, int]

    @property
    def telling(self) -> bool:
        """Whether one of its ratings is 8 or more, or 3 or less."""
        return any(rating in (*LOW, *HIGH) for rating in self.ratings.values())

    @property
    def lines(self) -> list[str]:
        """Its turns as lines with speaker letters."""
        return [f"{speaker}: {words}" for speaker, words in self.turns]


def read_chats(archive: Path) -> list[Chat]:
    """Return the chats, each once, in the archive's order; raises DataError for another archive."""
    ((name, content),) = read_members(archive, "chitchat_dataset/dataset.json")
    try:
        chats = [_chat(key, raw) for key, raw in json.loads(decode_text(content, where=name)).items()]
    except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{name} in {archive.name} is not the pinned list of chats: {error}.") from error
    distinct = {each.turns: each for each in reversed(chats)}
    return list(distinct.values())[::-1]


def _chat(key: str, raw: Mapping[str, Any]) -> Chat:
    letters: dict[str, str] = {}
    turns: list[tuple[str, str]] = []
    for messages in raw["messages"]:
        for message in messages:
            speaker = letters.setdefault(message["sender"], chr(ord("A") + len(letters)))
            words = " ".join(message["text"].split())
            if not words:
                continue
            if turns and turns[-1][0] == speaker:  # one turn may be several messages
                words = f"{turns.pop()[1]} {words}"
            turns.append((speaker, words))
    return Chat(key, tuple(turns), dict(raw.get("ratings") or {}))
