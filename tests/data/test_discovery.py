"""Clusters: found without labels, in a space where a text is the running sum of its words."""

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from collegium.core.cards import Source
from collegium.core.errors import DataError
from collegium.data import (
    Clusters,
    Corpus,
    Document,
    Domain,
    Message,
    as_corpus,
    discover,
    found_and_labels,
    normalised_mutual_information,
    purity,
    read_domains,
    write_domains,
)
from collegium.ops.balanced import kmeans

WORDS = {
    "law": ["court", "tenant", "rent", "notice", "judge", "appeal", "statute", "plaintiff", "evidence", "contract"],
    "code": ["function", "return", "import", "class", "index", "value", "loop", "string", "module", "print"],
    "sea": ["sailor", "harbour", "wave", "storm", "anchor", "mast", "captain", "island", "voyage", "tide"],
}
COMMON = ["the", "of", "and", "people", "time", "1984", "12th", "house", "day", "work"]


def labelled(each: int = 24, *, seed: int = 0) -> tuple[list[Document], list[str]]:
    draw = random.Random(seed)
    documents, labels = [], []
    for name, own in WORDS.items():
        for _ in range(each):
            documents.append(Document(text=" ".join(draw.choices(own, k=14) + draw.choices(COMMON, k=8))))
            labels.append(name)
    return documents, labels


@pytest.fixture(scope="module")
def clusters() -> Clusters:
    return discover(labelled()[0], 3, seed=0)


def found(clusters: Clusters, documents: Sequence[Document]) -> list[int]:
    return clusters.assign([document.plain for document in documents]).tolist()


def test_clusters_find_the_labels_and_random_ones_do_not(clusters: Clusters) -> None:
    documents, labels = labelled(seed=1)  # new text
    ours = found(clusters, documents)
    assert normalised_mutual_information(ours, labels) > 0.95
    assert purity(ours, labels) > 0.98
    chance = [random.Random(0).randrange(3) for _ in labels]
    assert normalised_mutual_information(chance, labels) < 0.2
    assert purity(chance, labels) < 0.6


def test_top_terms_tell_what_a_cluster_is_about(clusters: Clusters) -> None:
    documents, labels = labelled()
    for cluster, label in set(zip(found(clusters, documents), labels, strict=True)):
        assert set(clusters.top_terms[cluster]) == set(WORDS[label])


def test_a_term_that_stands_everywhere_tells_nothing() -> None:
    documents = [Document(text=f"{'report ' * 30}{each.plain}") for each in labelled()[0]]
    assert all("report" not in terms for terms in discover(documents, 3, seed=0).top_terms)


def test_the_order_of_documents_plays_no_part(clusters: Clusters) -> None:
    documents, _ = labelled()
    again = discover(Corpus((Domain("all", tuple(reversed(documents))),)), 3, seed=0)
    assert again.terms == clusters.terms
    assert again.centres.equal(clusters.centres)
    assert found(again, documents) == found(clusters, documents)


def fit_was_balanced(clusters: Clusters, documents: Sequence[Document]) -> bool:
    """Equally large clusters are those whose centres' mean is the mean of all documents."""
    everyone = clusters.embed([document.plain for document in documents]).mean(0)
    return torch.allclose(clusters.centres.mean(0), everyone, atol=1e-5)


def test_every_fit_is_balanced() -> None:
    documents, _ = labelled(seed=2)
    uneven = documents[:24] + documents[24:34] + documents[48:54]
    clusters = discover(uneven, 4, seed=0)
    assert len(clusters) == len(clusters.top_terms) == 4
    assert fit_was_balanced(clusters, uneven)
    embeddings = clusters.embed([document.plain for document in uneven])
    free = kmeans(embeddings, 4, generator=torch.Generator().manual_seed(0))
    assert not fit_was_balanced(replace(clusters, centres=free.centres), uneven)


Embedder = Callable[[Clusters, str], Tensor]


def embedded(clusters: Clusters, text: str) -> Tensor:
    return clusters.embed([text])[0]


def each_word_once(clusters: Clusters, text: str) -> Tensor:
    """The broken embedding: how often a word occurs is forgotten."""
    return clusters.embed([" ".join(set(clusters.tokenise(text)))])[0]


def without_idf(clusters: Clusters, text: str) -> Tensor:
    """The broken embedding: all words weigh the same."""
    return replace(clusters, idf=torch.ones_like(clusters.idf)).embed([text])[0]


def is_a_running_sum(embed: Embedder, clusters: Clusters, text: str) -> bool:
    total = torch.zeros(clusters.components.shape[0])
    for word in clusters.tokenise(text):
        total = total + clusters.word_vector(word)
    return torch.allclose(embed(clusters, text), torch.nn.functional.normalize(total, dim=0), atol=1e-6)


@settings(deadline=None)
@given(st.lists(st.sampled_from([word for own in WORDS.values() for word in own] + ["unknown", "7up", "day"])))
def test_a_text_is_the_running_sum_of_its_words(words: list[str]) -> None:
    assert is_a_running_sum(embedded, SPACE, ", ".join(words))


SPACE = discover(labelled()[0], 3, seed=0)


def test_wrong_embeddings_are_told(clusters: Clusters) -> None:
    text = "Court, court, court; people of the harbour!"
    assert is_a_running_sum(embedded, clusters, text)
    assert not is_a_running_sum(each_word_once, clusters, text)
    assert not is_a_running_sum(without_idf, clusters, text)


def test_an_embedding_is_that_of_scikit_learn(clusters: Clusters) -> None:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer

    documents = sorted(labelled()[0], key=lambda each: each.hash)
    vectorizer = TfidfVectorizer(stop_words="english", token_pattern=r"\b[^\W\d]\w+\b")
    table = torch.tensor(vectorizer.fit_transform([each.plain for each in documents]).toarray()).float()
    assert tuple(vectorizer.get_feature_names_out()) == clusters.terms
    assert not set(clusters.terms) & ENGLISH_STOP_WORDS
    expected = torch.nn.functional.normalize(table @ clusters.components.t(), dim=1)
    assert torch.allclose(clusters.embed([each.plain for each in documents]), expected, atol=1e-5)


def test_numbers_and_unknown_words_add_nothing(clusters: Clusters) -> None:
    assert clusters.tokenise("In 1984, the 12th Court; a née_x") == ["in", "the", "court", "née_x"]
    assert not clusters.word_vector("1984").any()
    assert not clusters.word_vector("unknown").any()
    assert not clusters.embed(["12 the unknown"]).any()
    assert clusters.embed(["court"]).norm().item() == pytest.approx(1)
    assert clusters.embed([]).shape == (0, clusters.components.shape[0])


def test_a_text_without_known_words_is_assigned_to_the_first_cluster(clusters: Clusters) -> None:
    assert clusters.assign(["?"]).tolist() == [0]


def test_tensors_keep_everything(clusters: Clusters, tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    save_file(clusters.to_tensors(), tmp_path / "clusters.safetensors")
    back = Clusters.from_tensors(load_file(tmp_path / "clusters.safetensors"))
    assert (back.terms, back.top_terms) == (clusters.terms, clusters.top_terms)
    assert back.embed(["née court"]).equal(clusters.embed(["née court"]))
    assert back.centres.equal(clusters.centres)


@pytest.mark.parametrize("part", ["idf", "terms", "centres"])
def test_tensors_that_are_no_clusters_are_refused(clusters: Clusters, part: str) -> None:
    tensors = clusters.to_tensors()
    with pytest.raises(DataError, match="no clusters"):
        Clusters.from_tensors({name: each for name, each in tensors.items() if name != part})
    with pytest.raises(DataError, match="no clusters"):
        Clusters.from_tensors({**tensors, part: tensors[part][..., :-1]})


@pytest.mark.parametrize(
    ("texts", "count", "message"),
    [
        (["a court", "a judge"], 3, "2 documents make 1 to 2 clusters, got 3"),
        (["a court"], 0, "1 documents make 1 to 1 clusters"),
        (["the of", "12 13"], 2, "told apart by words"),
    ],
)
def test_too_little_to_cluster_says_so(texts: list[str], count: int, message: str) -> None:
    with pytest.raises(DataError, match=message):
        discover([Document(text=text) for text in texts], count, seed=0)


@pytest.mark.parametrize("texts", [["court court"], ["court", "court judge"], ["court", "court", "court court"]])
def test_tiny_corpora_work(texts: list[str]) -> None:
    documents = [Document(text=text, origin=str(place)) for place, text in enumerate(texts)]
    clusters = discover(documents, len(texts), seed=0)
    assert len(clusters.centres) == len(texts)
    assert bool(clusters.centres.isfinite().all())


def test_clusters_become_a_folder_of_domains_and_back(clusters: Clusters, tmp_path: Path) -> None:
    documents, labels = labelled()
    corpus = as_corpus(clusters, Corpus((Domain("all", tuple(documents)),)))
    assert corpus.names == ("cluster-0", "cluster-1", "cluster-2")
    assert sum(len(domain.documents) for domain in corpus) == len(labels)
    again = read_domains(write_domains(corpus, tmp_path / "out"))
    assert {d.name: {x.hash for x in d.documents} for d in again} == {
        d.name: {x.hash for x in d.documents} for d in corpus
    }


def domains_with_sources() -> Corpus:
    """Return the labelled documents as domains, each with its source; `code` has a copy of a text of `law`."""
    documents, labels = labelled()
    own = {name: tuple(d for d, label in zip(documents, labels, strict=True) if label == name) for name in WORDS}
    own["code"] = (own["law"][0], *own["code"])
    return Corpus(tuple(Domain(name, own[name], (Source(name, f"licence of {name}"),)) for name in WORDS))


def test_clusters_keep_the_sources_of_their_documents(clusters: Clusters) -> None:
    labelled_corpus = domains_with_sources()
    for domain in as_corpus(clusters, labelled_corpus):
        origins = {name for name in WORDS for each in labelled_corpus[name].documents if each in domain.documents}
        assert domain.sources == tuple(Source(name, f"licence of {name}") for name in WORDS if name in origins)


def test_a_document_in_two_domains_is_clustered_once_and_has_no_label(clusters: Clusters) -> None:
    labelled_corpus = domains_with_sources()
    again = discover(labelled_corpus, 3, seed=0)
    assert again.centres.equal(clusters.centres)
    found_corpus = as_corpus(again, labelled_corpus)
    assert len(found_corpus.documents) == len(labelled_corpus.documents) - 1 == len(labelled_corpus.distinct)
    found, labels = found_and_labels(found_corpus, labelled_corpus)
    assert len(found) == len(labelled_corpus.distinct) - 1
    assert labels.count("law") == len(labelled_corpus["law"].documents) - 1
    assert labels.count("code") == len(labelled_corpus["code"].documents) - 1


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.text(st.characters(codec="utf-8"), min_size=1, max_size=30))
def test_written_documents_keep_their_hashes(tmp_path: Path, text: str) -> None:
    kinds = (
        Document(text=text + "."),
        Document(prompt=text, completion=text + "."),
        Document(messages=(Message("user", text), Message("assistant", text + "."))),
    )
    domain = Domain("law", kinds, (Source("court", "CC0", "ab"),))
    target = tmp_path / str(random.Random(text).random())
    if not target.exists():
        (back,) = read_domains(write_domains(Corpus((domain,)), target))
        assert [each.hash for each in back.documents] == [each.hash for each in kinds]
        assert back.sources == domain.sources


def test_a_folder_that_exists_is_not_written_over(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="exists already"):
        write_domains(Corpus(()), tmp_path)


def test_agreement_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import normalized_mutual_info_score

    for seed in range(20):
        draw = random.Random(seed)
        one, other = ([draw.randrange(1 + seed % 5) for _ in range(30)] for _ in range(2))
        expected = normalized_mutual_info_score(other, one)
        assert normalised_mutual_information(one, other) == pytest.approx(expected, abs=1e-9)
    assert normalised_mutual_information([0, 1, 0, 1], ["a", "a", "b", "b"]) == pytest.approx(0, abs=1e-12)
    assert json.dumps(purity([0, 0, 1], ["a", "b", "b"])) == json.dumps(2 / 3)
