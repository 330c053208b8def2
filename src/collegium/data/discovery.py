"""Domains discovered in unlabelled text: tf-idf, SVD, balanced k-means  [c-BTM, papers.md 2.3]."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy
import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.core.files import staged_folder, write_new
from collegium.core.randomness import derive_seed, generator
from collegium.data.clusters import Clusters, tokenise
from collegium.data.documents import Corpus, Document, Domain
from collegium.data.reading import SOURCES_FILE
from collegium.ops.balanced import balanced_kmeans

MOST_WORDS = 30_000
TOP_TERMS = 10


def discover(corpus: Corpus | Sequence[Document], clusters: int, *, seed: int, dims: int = 100) -> Clusters:
    """Return balanced clusters of documents, found without their labels; the order of documents plays no part.

    Of a corpus a document that stands in several domains takes part once.

    tf-idf (English stop words and words that begin with a digit left out) -> truncated SVD to `dims` -> length one
    -> k-means whose clusters have equally many documents.

    Departures from c-BTM: the vocabulary is the 30,000 commonest words, so that a fit is a file of megabytes; the
    balance is exact; all documents take part in each step.

    Raises DataError when there are fewer documents than clusters, or no words to tell them apart by.
    """
    documents = corpus.distinct if isinstance(corpus, Corpus) else tuple(corpus)
    documents = tuple(sorted(documents, key=lambda each: each.hash))
    if not 1 <= clusters <= len(documents):
        raise DataError(
            f"{len(documents)} documents make 1 to {len(documents)} clusters, got {clusters}. "
            "Ask for another number, or give more documents."
        )
    table, terms, idf = _tfidf([document.plain for document in documents])
    embeddings, components = _reduce(table, dims, derive_seed(seed, "svd") % 2**32)
    found = balanced_kmeans(embeddings, clusters, generator=generator(seed, "clusters"))
    return Clusters(terms, idf, components, found.centres, _top_terms(table, found.labels, clusters, terms))


def _tfidf(texts: Sequence[str]) -> tuple[Any, tuple[str, ...], Float[Tensor, " word"]]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    def words(text: str) -> list[str]:
        return [word for word in tokenise(text) if word not in ENGLISH_STOP_WORDS]

    vectorizer = TfidfVectorizer(
        analyzer=words,  # pyright: ignore[reportArgumentType]
        max_features=MOST_WORDS,
        dtype=numpy.float32,  # pyright: ignore[reportArgumentType]
    )
    try:
        table = vectorizer.fit_transform(texts)
    except ValueError as error:
        raise DataError(
            "clusters are told apart by words, and these documents have none but numbers and words like `the`. "
            "Give documents in a language that is written in words."
        ) from error
    return table, tuple(vectorizer.get_feature_names_out().tolist()), torch.tensor(vectorizer.idf_).float()


def _reduce(table: Any, dims: int, seed: int) -> tuple[Float[Tensor, "document dim"], Float[Tensor, "dim word"]]:  # noqa: ANN401 - a scipy matrix
    from sklearn.decomposition import TruncatedSVD

    kept = max(1, min(dims, table.shape[0] - 1, table.shape[1] - 1))
    if table.shape[1] == 1:  # one word in all: nothing to reduce
        components = numpy.ones((1, 1), dtype=numpy.float32)
    else:
        reduction: Any = TruncatedSVD(kept, random_state=seed).fit(table)
        components = reduction.components_
    rows = torch.tensor(numpy.asarray(table @ components.T), dtype=torch.float32)
    return torch.nn.functional.normalize(rows, dim=1), torch.tensor(components, dtype=torch.float32)


def _top_terms(
    table: Any,  # noqa: ANN401 - a scipy matrix
    labels: Int[Tensor, " document"],
    clusters: int,
    terms: tuple[str, ...],
) -> tuple[tuple[str, ...], ...]:
    """Return each cluster's terms whose mean weight is the most above that of all documents."""
    everywhere = numpy.asarray(table.mean(axis=0)).ravel()
    found = []
    for cluster in range(clusters):
        inside = numpy.asarray(table[(labels == cluster).numpy()].mean(axis=0)).ravel() - everywhere
        order = numpy.argsort(-inside, kind="stable")[:TOP_TERMS]
        found.append(tuple(terms[place] for place in order if inside[place] > 0 or clusters == 1))
    return tuple(found)


def as_corpus(clusters: Clusters, corpus: Corpus) -> Corpus:
    """Return a corpus' documents as domains named after the clusters, each once, at its nearest centre.

    Clusters that no document is nearest to are left out. A domain's sources are those of the domains its documents
    come from. As in c-BTM the corpus is assigned greedily; the balance is that of the fit.
    """
    documents = corpus.distinct
    labels = clusters.assign([document.plain for document in documents]).tolist()
    grouped: dict[int, list[Document]] = {}
    for document, label in zip(documents, labels, strict=True):
        grouped.setdefault(label, []).append(document)
    return Corpus(
        tuple(
            Domain(clusters.names[label], tuple(grouped[label]), _sources(corpus, grouped[label]))
            for label in sorted(grouped)
        )
    )


def _sources(corpus: Corpus, documents: Sequence[Document]) -> tuple[Source, ...]:
    hashes = {document.hash for document in documents}
    origins = [domain for domain in corpus if any(document.hash in hashes for document in domain.documents)]
    return tuple(dict.fromkeys(source for domain in origins for source in domain.sources))


def write_domains(corpus: Corpus, folder: str | Path) -> Path:
    """Return the folder, written whole or not at all: a .jsonl file a domain, and the sources.

    `read_domains` gives back the same documents. Raises DataError when the folder exists.
    """
    target = Path(folder)
    if target.exists():
        raise DataError(f"{target} exists already; choose another folder, or take that one away.")
    with staged_folder(target) as aside:
        for domain in corpus:
            rows = "".join(json.dumps(_row(document), ensure_ascii=False) + "\n" for document in domain.documents)
            write_new(aside / f"{domain.name}.jsonl", rows.encode())
        listed = {
            domain.name: [{"name": s.name, "licence": s.licence, "digest": s.digest} for s in domain.sources]
            for domain in corpus
            if domain.sources
        }
        if listed:
            write_new(aside / SOURCES_FILE, (json.dumps({"domains": listed}, indent=2) + "\n").encode())
    return target


def _row(document: Document) -> dict[str, Any]:
    if document.messages is not None:
        return {"messages": [{"role": each.role, "content": each.content} for each in document.messages]}
    if document.text is not None:
        return {"text": document.text}
    return {"prompt": document.prompt, "completion": document.completion}
