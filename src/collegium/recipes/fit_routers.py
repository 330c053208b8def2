"""Fitting a library's routers on the texts its experts were trained and chosen on; never on test text."""

from collections.abc import Mapping

from collegium.compose import Cast
from collegium.core.routing import BASE
from collegium.data import Corpus, Document, cut, discover
from collegium.infer import fill_table, held_out
from collegium.library import Library
from collegium.recipes.watch import Watch
from collegium.routers import fit_cached_prior, fit_classifier, fit_cluster

CACHED_SEQUENCES = 100
"""Held-out sequences behind a cached prior, as in the paper."""
FIT_DOCUMENTS = 400
"""At most this many documents a domain for a classifier."""


def fit_routers(cast: Cast, library: Library, corpus: Corpus, *, seed: int, watch: Watch, window: int = 128) -> None:
    """Fit classifier, cluster and cached prior for the domains that have an expert of their name, and keep them."""
    train: dict[str, tuple[Document, ...]] = {}
    dev: dict[str, tuple[Document, ...]] = {}
    for domain in corpus:
        if domain.name in cast.names:
            split = domain.split()
            train[domain.name], dev[domain.name] = split.train[:FIT_DOCUMENTS], split.dev
    texts = {name: [document.plain for document in documents] for name, documents in train.items()}
    held = {name: [document.plain for document in documents] for name, documents in dev.items()}
    if len(texts) < 2:
        return
    update = watch.begin("fitting routers", 3)
    fit_classifier(library, texts_by_expert=texts, dev_by_expert=held, seed=seed)
    update(1)
    clusters = discover([document for documents in train.values() for document in documents], len(texts), seed=seed)
    fit_cluster(library, clusters=clusters, documents_by_expert=texts)
    update(2)
    fit_prior(cast, library, dev, window=window)
    update(3)


def fit_prior(cast: Cast, library: Library, dev: Mapping[str, tuple[Document, ...]], *, window: int) -> None:
    """Fit the cached prior: each expert's log-likelihood of dev windows, the domains taking turns."""
    each = max(1, CACHED_SEQUENCES // len(dev)) * window
    windows = {
        name: cut(documents, cast.base.tokenizer, window=window, budget_tokens=min(each, 6 * window))
        for name, documents in dev.items()
    }
    text = held_out(windows, context=1)
    names = tuple(name for name in cast.names if name != BASE)
    table = fill_table(cast.voices(), text, names)
    order = sorted(range(len(text.domains)), key=lambda place: (text.domains[:place].count(text.domains[place]), place))
    fit_cached_prior(library, log_likelihoods=table.log_probs.sum(1)[order], experts=names)
