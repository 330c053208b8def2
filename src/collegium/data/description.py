"""What a corpus holds, in numbers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from collegium.core.cards import Source
from collegium.core.protocols import Tokenizer
from collegium.data.documents import MINIMUM_DOCUMENTS, Corpus, Document, Domain
from collegium.data.duplicates import NearDuplicate, near_duplicates
from collegium.data.encoding import encode


@dataclass(frozen=True)
class Extreme:
    """The longest or shortest document."""

    origin: str
    characters: int


@dataclass(frozen=True)
class DomainDescription:
    """One domain in numbers.

    kinds:  documents of each kind (text, pair, chat). words: stretches without white space.
    tokens: None without a tokenizer. split: documents in train, dev and test; None for under three documents.
    duplicates, empty: exact copies, and files or rows without text, that were left out.
    """

    name: str
    documents: int
    kinds: Mapping[str, int]
    characters: int
    words: int
    bytes: int
    tokens: int | None
    split: Mapping[str, int] | None
    duplicates: int
    empty: int
    longest: Extreme
    shortest: Extreme
    sources: tuple[Source, ...]


@dataclass(frozen=True)
class Description:
    """A corpus in numbers: its domains, and documents that stand in two of them almost the same."""

    domains: tuple[DomainDescription, ...]
    near_duplicates: tuple[NearDuplicate, ...]

    def to_dict(self) -> dict[str, Any]:
        """Return the description as plain values for JSON."""
        return asdict(self)


def describe(corpus: Corpus, tokenizer: Tokenizer | None = None) -> Description:
    """Return a corpus in numbers; tokens are counted where there is a tokenizer.

    >>> from collegium.data import Corpus, Document, Domain
    >>> law = Domain("law", (Document(text="The court finds."), Document(text="Rent is owed.")))
    >>> describe(Corpus((law,))).domains[0].words
    6
    """
    return Description(tuple(_describe(domain, tokenizer) for domain in corpus), near_duplicates(corpus))


def _describe(domain: Domain, tokenizer: Tokenizer | None) -> DomainDescription:
    texts = [document.plain for document in domain.documents]
    by_length = sorted(domain.documents, key=lambda each: (len(each.plain), each.hash))
    return DomainDescription(
        name=domain.name,
        documents=len(texts),
        kinds=dict(sorted(Counter(document.kind for document in domain.documents).items())),
        characters=sum(map(len, texts)),
        words=sum(len(text.split()) for text in texts),
        bytes=sum(document.bytes for document in domain.documents),
        tokens=None if tokenizer is None else _count(domain.documents, tokenizer),
        split=_sizes(domain),
        duplicates=domain.duplicates,
        empty=domain.empty,
        longest=_extreme(by_length[-1:]),
        shortest=_extreme(by_length[:1]),
        sources=domain.sources,
    )


def _count(documents: Sequence[Document], tokenizer: Tokenizer) -> int:
    return sum(len(encode(document, tokenizer).tokens) for document in documents)


def _sizes(domain: Domain) -> dict[str, int] | None:
    if len(domain.documents) < MINIMUM_DOCUMENTS:
        return None
    split = domain.split()
    return {"train": len(split.train), "dev": len(split.dev), "test": len(split.test)}


def _extreme(documents: Sequence[Document]) -> Extreme:
    return Extreme(documents[0].origin, len(documents[0].plain)) if documents else Extreme("", 0)
