"""Which domains arrive at a library, and which are texts of its experts already."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from collegium.data import Corpus, Domain
from collegium.library import Library


@dataclass(frozen=True)
class Arrivals:
    """Domains by what they are to a library.

    new:    those that arrive, in their order.
    own:    expert -> its texts, as far as they were given.
    known:  domain of the documents given -> the expert that has learnt it.
    judged: what is reported on: every domain given, by its name.
    """

    new: tuple[Domain, ...]
    own: dict[str, Domain]
    known: dict[str, str]
    judged: dict[str, Domain]


def sort_arrivals(library: Library, docs: Corpus, texts: Corpus, *, without: Collection[str] = ()) -> Arrivals:
    """Return what arrives of `docs`; `texts` are of experts that are there, and never arrive.

    A domain is an expert's own that has its name, or all of whose training documents the expert's card lists: one
    that extended an expert, or whose expert was merged, does not arrive again.

    without: experts that are to go.
    """
    names = [name for name in library.names(task="language") if name not in without]
    learnt = {name: frozenset(library.card(name).documents.get("train", ())) for name in names}
    own: dict[str, list[Domain]] = {}
    new: list[Domain] = []
    known: dict[str, str] = {}
    for domain in (*docs, *texts):
        owner = _owner(domain, learnt)
        if owner is not None:
            own.setdefault(owner, []).append(domain)
        if domain in texts.domains:
            continue
        if owner is None:
            new.append(domain)
        else:
            known[domain.name] = owner
    judged = {domain.name: domain for domain in (*texts, *docs)}
    return Arrivals(tuple(new), {name: together(name, parts) for name, parts in own.items()}, known, judged)


def _owner(domain: Domain, learnt: dict[str, frozenset[str]]) -> str | None:
    if domain.name in learnt:
        return domain.name
    train = frozenset(document.hash for document in domain.split().train)
    return next((name for name, hashes in learnt.items() if train <= hashes), None)


def together(name: str, domains: Sequence[Domain]) -> Domain:
    """Return domains as one of this name, each document once.

    >>> from collegium.data import Document
    >>> law = Domain("law", (Document(text="one"), Document(text="two")))
    >>> len(together("both", (law, law)).documents)
    2
    """
    return Domain(
        name,
        Corpus(tuple(replace(domain, name=f"part-{place}") for place, domain in enumerate(domains))).distinct,
        tuple(dict.fromkeys(source for domain in domains for source in domain.sources)),
        duplicates=sum(domain.duplicates for domain in domains),
        empty=sum(domain.empty for domain in domains),
    )
