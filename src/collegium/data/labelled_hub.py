"""Labelled tasks of the papers on continual learning, from the Hugging Face hub: rows of what each column holds.

Nothing here is fetched unless it is asked for by name. What a row's columns hold is written from memory of the data
sets' cards, and was tried on rows of that shape alone: a column that is not there is told. The revision is the branch
of parquet files that the hub keeps. A text in several columns is these behind each other.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.parcels import Progress
from collegium.core.tables import nearest
from collegium.data.hub import CONVERTED, Row, hub_folder, hub_rows
from collegium.data.labelled import LabelledText

_INSTEAD = (
    "take tasks that need no hub (`data pull FOLDER --labelled`), or give a folder of your own jsonl files with text "
    "and label."
)


@dataclass(frozen=True)
class HubTask:
    """One data set: where it lies and what a row says.

    files: patterns. read: task, text and label of a row, None = it is left out; no task = the recipe's own name.
    """

    repository: str
    files: tuple[str, ...]
    read: Callable[[Row], tuple[str, str, str] | None]
    licence: str


def _numbered(names: Sequence[str], *columns: str, label: str = "label") -> Callable[[Row], tuple[str, str, str]]:
    """Return the reader of rows whose label is a number that stands for one of these names."""

    def read(row: Row) -> tuple[str, str, str]:
        return "", " ".join(str(row[each]) for each in columns if row[each]), names[int(row[label])]

    return read


_STARS = ("terrible", "bad", "okay", "good", "great")
_MOODS = ("positive", "neutral", "negative")
_NEWS = ("world", "sports", "business", "science")
_ANSWERS = (
    "society", "science", "health", "education", "computers", "sports", "business", "entertainment", "family",
    "politics",
)  # fmt: skip
_THINGS = (
    "company", "school", "artist", "athlete", "politician", "transport", "building", "nature", "village", "animal",
    "plant", "album", "film", "book",
)  # fmt: skip
_FIELDS = ("computers", "electronics", "psychology", "mechanics", "building", "medicine", "biochemistry")
_LANGUAGES = ("amh", "arq", "ary", "hau", "ibo", "kin", "pcm", "por", "swa", "tso", "twi", "yor")
_INSTRUCTED = {
    "task363_sst2_polarity_classification": "polarity",
    "task875_emotion_classification": "emotion",
    "task1687_sentiment140_classification": "mood",
}


def _science(row: Row) -> tuple[str, str, str]:
    return _FIELDS[int(row["label_level_1"])], str(row["input_data"]), f"area {int(row['label_level_2'])}"


def _instructed(row: Row) -> tuple[str, str, str] | None:
    name = _INSTRUCTED.get(str(row["task_name"]))
    return None if name is None else (name, str(row["inputs"]), str(row["targets"]))


LABELLED_HUB: Mapping[str, Mapping[str, HubTask]] = {
    "mtl5": {
        "agnews": HubTask(
            "fancyzhx/ag_news", ("default/train/*.parquet",), _numbered(_NEWS, "text"), "see the card"
        ),
        "amazon": HubTask(
            "SetFit/amazon_reviews_multi_en", ("default/train/*.parquet",), _numbered(_STARS, "text"), "see the card"
        ),
        "dbpedia": HubTask(
            "fancyzhx/dbpedia_14", ("dbpedia_14/train/*.parquet",), _numbered(_THINGS, "title", "content"),
            "CC-BY-SA 3.0",
        ),
        "yahoo": HubTask(
            "community-datasets/yahoo_answers_topics",
            ("yahoo_answers_topics/train/*.parquet",),
            _numbered(_ANSWERS, "question_title", "question_content", "best_answer", label="topic"),
            "see the card",
        ),
        "yelp": HubTask(
            "Yelp/yelp_review_full", ("yelp_review_full/train/*.parquet",), _numbered(_STARS, "text"), "see the card"
        ),
    },
    "wos": {
        "wos": HubTask("HDLTex/web_of_science", ("WOS11967/train/*.parquet",), _science, "see the card"),
    },
    "afrisenti": {
        language: HubTask(
            "shmuhammad/AfriSenti-twitter-sentiment",
            (f"{language}/train/*.parquet",),
            _numbered(_MOODS, "tweet"),
            "CC-BY-NC-SA 4.0: research alone",
        )
        for language in _LANGUAGES
    },
    "superni": {
        "superni": HubTask(
            "Muennighoff/natural-instructions", ("default/train/*.parquet",), _instructed, "Apache-2.0"
        ),
    },
}  # fmt: skip
"""Stream -> its data sets. Of SuperNI those tasks of SAPT's that tell labels; the others write."""


def read_labelled_hub(
    name: str, *, rows: int | None = None, progress: Progress | None = None
) -> tuple[dict[str, list[LabelledText]], tuple[Source, ...]]:
    """Return task -> its rows, and where they come from; fetched on the first call.

    name: one of LABELLED_HUB. rows: at most so many of each task.

    Raises DataError for an unknown name or columns that are not the published ones, ResourceError when a data set
    cannot be fetched.
    """
    if name not in LABELLED_HUB:
        raise DataError(f"no stream of the hub is called {name!r}. {nearest(name, LABELLED_HUB)}")
    say, found, sources = progress or (lambda line: None), {}, []
    for short, each in LABELLED_HUB[name].items():
        folder = hub_folder(each.repository, CONVERTED, each.files, licence=each.licence, instead=_INSTEAD, say=say)
        sources.append(Source(f"hf:{each.repository}@{folder.name}", each.licence, folder.name))
        for task, row in _rows(each, hub_rows(folder, each.files), short):
            own = found.setdefault(task, [])
            if rows is None or len(own) < rows:
                own.append(row)
    return found, tuple(sources)


def _rows(each: HubTask, rows: Iterator[Row], short: str) -> Iterator[tuple[str, LabelledText]]:
    for number, row in enumerate(rows, 1):
        where = f"{each.repository}, row {number}"
        try:
            said = each.read(row)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{where}: the columns are not those of the published data ({error!r}).") from error
        if said is not None and said[1].strip():
            yield said[0] or short, LabelledText(" ".join(said[1].split()), said[2], where)
