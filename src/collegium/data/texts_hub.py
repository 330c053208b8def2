"""Domains of plain text of the papers, from the Hugging Face hub, written as a folder like any user's.

DEMix's corpora are not published as such. Here is what the hub has of each of the eight training domains, or
of its kind (`of`). Nothing is fetched unless it is asked for; columns are written from memory of the data sets' cards,
and were tried on rows of that shape alone. Of each data set the first file is read, which is more than most can use.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from itertools import islice
from pathlib import Path

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.files import staged_folder, write_new
from collegium.core.parcels import Progress
from collegium.core.tables import nearest
from collegium.data.hub import CONVERTED, hub_folder, hub_rows
from collegium.data.reading import SOURCES_FILE

_INSTEAD = "take texts that need no hub (`data pull FOLDER`), or give a folder of your own, a sub-folder a domain."


@dataclass(frozen=True)
class HubTexts:
    """One domain: where it lies, the part of the data set, the column of the text, and what of the paper's it is."""

    repository: str
    part: str
    column: str
    licence: str
    of: str

    @property
    def files(self) -> tuple[str, ...]:
        """Patterns of the first file; the hub keeps it under another name where it converted a part alone."""
        return f"{self.part}/train/0000.parquet", f"{self.part}/partial-train/0000.parquet"


TEXTS_HUB: Mapping[str, Mapping[str, HubTexts]] = {
    "demix": {
        "billion-words": HubTexts(
            "billion-word-benchmark/lm1b", "plain_text", "text", "see the card", "the paper's"
        ),
        "case-law": HubTexts(
            "coastalcph/lex_glue", "scotus", "text", "CC-BY 4.0", "opinions of one court, for the paper's case law"
        ),
        "medical": HubTexts(
            "ccdv/pubmed-summarization", "document", "article", "see the card", "articles, for the paper's"
        ),
        "news": HubTexts("allenai/c4", "realnewslike", "text", "ODC-BY", "made as the paper's was"),
        "papers": HubTexts(
            "ccdv/arxiv-summarization", "document", "article", "see the card",
            "of all sciences, for the paper's of computer science",
        ),
        "posts": HubTexts(
            "webis/tldr-17", "default", "body", "CC-BY 4.0", "posts with a summary, for the paper's of all kinds"
        ),
        "reviews": HubTexts(
            "fancyzhx/amazon_polarity", "amazon_polarity", "content", "Apache-2.0", "the paper's, as published anew"
        ),
        "web": HubTexts("Skylion007/openwebtext", "plain_text", "text", "CC0-1.0", "the paper's"),
    }
}  # fmt: skip
"""Corpus -> its domains."""


def pull_texts_hub(folder: str | Path, name: str, *, rows: int | None = None, progress: Progress | None = None) -> Path:
    """Return the folder of a paper's domains, a file of rows with text each; fetched and written on the first call.

    name: one of TEXTS_HUB. rows: at most so many documents of each domain.

    Raises DataError for an unknown name, when something else lies in that folder, or for columns that are not the
    published ones; ResourceError when a data set cannot be fetched.
    """
    if name not in TEXTS_HUB:
        raise DataError(f"no corpus of the hub is called {name!r}. {nearest(name, TEXTS_HUB)}")
    target, say = Path(folder), progress or (lambda line: None)
    if target.exists():
        raise DataError(f"{target} exists; choose another folder for the texts of {name}, or take it away.")
    sources = {}
    try:
        with staged_folder(target) as aside:
            for domain, each in TEXTS_HUB[name].items():
                found = hub_folder(
                    each.repository, CONVERTED, each.files, licence=each.licence, instead=_INSTEAD, say=say
                )
                sources[domain] = [asdict(Source(f"hf:{each.repository}@{found.name}", each.licence, found.name))]
                say(f"writing {domain}: {each.of}")
                lines = (json.dumps({"text": text}, ensure_ascii=False) for text in islice(_texts(each, found), rows))
                write_new(aside / f"{domain}.jsonl", "".join(f"{line}\n" for line in lines).encode())
            write_new(aside / SOURCES_FILE, (json.dumps({"domains": sources}, indent=2) + "\n").encode())
    except FileExistsError:
        say(f"another process wrote {target} first")
    return target


def _texts(each: HubTexts, folder: Path) -> Iterator[str]:
    for number, row in enumerate(hub_rows(folder, each.files), 1):
        if each.column not in row:
            raise DataError(
                f"{each.repository}, row {number}: there is no column {each.column!r} but {', '.join(row)}: these are "
                "not the published data."
            )
        text = str(row[each.column] or "").strip()
        if text:
            yield text + "\n"
