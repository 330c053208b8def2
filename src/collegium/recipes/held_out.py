"""Which documents of a data folder a model may be judged on, and cutting them into windows."""

from dataclasses import dataclass

from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.data import Corpus, Document, Domain, cut
from collegium.infer import HeldOut, held_out
from collegium.library import Library

REDUCED_TOKENS = 8192
"""Tokens a domain under `--budget reduced`."""


@dataclass(frozen=True)
class Unseen:
    """The documents of each domain that no expert lists as its own, and how many were passed over."""

    documents: dict[str, tuple[Document, ...]]
    skipped: int


def seen_hashes(library: Library | None) -> frozenset[str]:
    """Return the hashes of all train and dev documents that the experts' cards list."""
    if library is None:
        return frozenset()
    return frozenset(
        each for name in library.names() for hashes in library.card(name).documents.values() for each in hashes
    )


def unseen(corpus: Corpus, library: Library | None) -> Unseen:
    """Return what `eval` may score: every document that no member lists, whatever its hash.

    Raises DataError when a domain has none left.
    """
    seen = seen_hashes(library)
    kept = {domain.name: _not_in(domain, seen) for domain in corpus}
    skipped = sum(len(domain.documents) - len(kept[domain.name]) for domain in corpus)
    empty = [name for name, documents in kept.items() if not documents]
    if empty:
        raise DataError(
            f"every document of {', '.join(empty)} was trained on by a member of this model: "
            "give other documents, or the same folder the experts were trained from (its test tenth is left)."
        )
    return Unseen(kept, skipped)


def _not_in(domain: Domain, seen: frozenset[str]) -> tuple[Document, ...]:
    return tuple(document for document in domain.documents if document.hash not in seen)


def windows_of(
    documents: dict[str, tuple[Document, ...]],
    tokenizer: Tokenizer | None,
    *,
    window: int,
    context: int,
    budget_tokens: int | None,
) -> HeldOut:
    """Return the documents as held-out windows, each domain within the token budget, in hash order."""
    if tokenizer is None:
        raise DataError("this base has no tokenizer files, so it cannot read text; use a base folder with a tokenizer.")
    if not 0 <= context < window:
        raise DataError(
            f"--context {context} leaves nothing to score in a window of {window}; give one from 0 up to that."
        )
    cut_up = {
        name: cut(each, tokenizer, window=window, budget_tokens=budget_tokens) for name, each in documents.items()
    }
    return held_out(cut_up, context=context)
