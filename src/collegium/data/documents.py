"""Documents, domains and corpora: what text is, before anyone counts its tokens."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from collegium.core.cards import Source, content_hash
from collegium.core.errors import DataError, NameTaken
from collegium.core.names import check_name
from collegium.core.samples import Message
from collegium.core.tables import nearest

__all__ = ["MINIMUM_DOCUMENTS", "Corpus", "Document", "Domain", "Message", "Split"]

MINIMUM_DOCUMENTS = 3


@dataclass(frozen=True)
class Document:
    """One document: exactly one of a text, a prompt with its completion, or messages.

    origin: file and row it was read from, for messages to the user; no part of what the document is.
    """

    text: str | None = None
    prompt: str | None = None
    completion: str | None = None
    messages: tuple[Message, ...] | None = None
    origin: str = field(default="", compare=False)

    def __post_init__(self) -> None:
        """Check that it is one thing."""
        pair = self.prompt is not None and self.completion is not None
        halves = (self.prompt is None) != (self.completion is None)
        if halves or (self.text is not None) + pair + (self.messages is not None) != 1:
            raise DataError(
                f"{self.origin or 'document'}: a document is a text, or a prompt with its completion, or messages; "
                "give exactly one of the three."
            )

    @property
    def kind(self) -> Literal["text", "pair", "chat"]:
        """Which of the three it is."""
        if self.text is not None:
            return "text"
        return "chat" if self.messages is not None else "pair"

    @cached_property
    def hash(self) -> str:
        """The sha256 of its content's canonical JSON: the same wherever and in whatever order it was read."""
        if self.messages is not None:
            return content_hash({"messages": [[each.role, each.content] for each in self.messages]})
        if self.text is not None:
            return content_hash({"text": self.text})
        return content_hash({"prompt": self.prompt, "completion": self.completion})

    @property
    def plain(self) -> str:
        """All of its text: a pair's prompt and completion run on, messages a line each."""
        if self.messages is not None:
            return "\n".join(each.content for each in self.messages)
        return self.text if self.text is not None else f"{self.prompt}{self.completion}"

    @property
    def bytes(self) -> int:
        """The utf-8 length of all of its text."""
        return len(self.plain.encode())


@dataclass(frozen=True)
class Split:
    """A domain's documents in three: to learn from, to choose by, to judge by."""

    train: tuple[Document, ...]
    dev: tuple[Document, ...]
    test: tuple[Document, ...]

    @property
    def hashes(self) -> dict[str, tuple[str, ...]]:
        """What an expert's card lists: the hashes of all train and dev documents, used or not."""
        return {"train": tuple(each.hash for each in self.train), "dev": tuple(each.hash for each in self.dev)}


@dataclass(frozen=True)
class Domain:
    """A named part of a corpus.

    duplicates: how many exact copies of earlier documents were left out.
    empty:      how many files or rows without text were left out.
    """

    name: str
    documents: tuple[Document, ...]
    sources: tuple[Source, ...] = ()
    duplicates: int = 0
    empty: int = 0

    def __post_init__(self) -> None:
        """Check the name: it becomes the expert's."""
        try:
            check_name(self.name, what="domain")
        except NameTaken as error:
            raise DataError(str(error)) from error

    def split(self) -> Split:
        """Return train, dev and test documents; raises DataError under three documents.

        The hash modulo 10 decides: 0 = test, 1 = dev, the rest train. If test or dev is empty, the document with the
        lowest remaining hash goes there (test first). So a document's place depends on nothing but its content,
        save in a domain so small that a place would stay empty.
        """
        ordered = sorted(self.documents, key=lambda each: each.hash)
        if len(ordered) < MINIMUM_DOCUMENTS:
            raise DataError(_too_few(self, len(ordered)))
        parts: dict[str, list[Document]] = {"test": [], "dev": [], "train": []}
        for document in ordered:
            parts[_place(document.hash)].append(document)
        for part in ("test", "dev", "train"):
            if not parts[part]:
                _fill(parts, part, ordered)
        return Split(tuple(parts["train"]), tuple(parts["dev"]), tuple(parts["test"]))


def _place(document_hash: str) -> str:
    return {0: "test", 1: "dev"}.get(int(document_hash, 16) % 10, "train")


def _fill(parts: dict[str, list[Document]], empty: str, ordered: list[Document]) -> None:
    # The remaining documents are those in train; where it has none to spare, a part with several gives one.
    donor = next(part for part in ("train", "dev", "test") if len(parts[part]) > 1)
    lowest = next(document for document in ordered if any(document is each for each in parts[donor]))
    parts[donor] = [each for each in parts[donor] if each is not lowest]
    parts[empty].append(lowest)


def _too_few(domain: Domain, count: int) -> str:
    found = "1 document" if count == 1 else f"{count} documents"
    left_out = f" ({domain.duplicates} exact copies left out)" if domain.duplicates else ""
    return (
        f"domain {domain.name!r} has {found}{left_out}; at least {MINIMUM_DOCUMENTS} are needed, one each to train, "
        "to choose and to test. A text file that is a whole domain is cut at blank lines into documents of at least "
        "2,000 characters: give it blank lines or more text, or make it a folder with one document per file. If the "
        "files beside it are documents of one domain, put their folder into another and give that one."
    )


@dataclass(frozen=True)
class Corpus:
    """Domains, each name once; iterate over it, or take one by name."""

    domains: tuple[Domain, ...]

    def __post_init__(self) -> None:
        """Check that names are distinct."""
        names = [each.name for each in self.domains]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"each domain has a name of its own; {', '.join(twice)} comes twice. Rename one of them.")

    @property
    def names(self) -> tuple[str, ...]:
        """The domains' names."""
        return tuple(each.name for each in self.domains)

    @property
    def documents(self) -> tuple[Document, ...]:
        """All documents, domain after domain."""
        return tuple(document for domain in self.domains for document in domain.documents)

    @property
    def distinct(self) -> tuple[Document, ...]:
        """All documents, each once: one that stands in several domains comes in the first of them."""
        return tuple({document.hash: document for document in reversed(self.documents)}.values())[::-1]

    def __iter__(self) -> Iterator[Domain]:
        """Go through the domains."""
        return iter(self.domains)

    def __len__(self) -> int:
        """Count the domains."""
        return len(self.domains)

    def __getitem__(self, name: str) -> Domain:
        """Return the domain of this name; raises DataError naming the closest."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise DataError(f"there is no domain {name!r}. {nearest(name, self.names)}")
