"""Fitting a library's routers on the texts its experts were trained and chosen on; never on test text."""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.compose import Cast
from collegium.core.protocols import Tokenizer
from collegium.core.routing import BASE
from collegium.data import Document, Domain, cut, discover, join_windows
from collegium.infer import HeldOut, fill_table
from collegium.library import Library
from collegium.recipes.watch import Watch
from collegium.routers import CachedSequences, fit_cached_prior, fit_classifier, fit_cluster

CACHED_SEQUENCES = 24
"""Held-out sequences behind a cached prior, shared by the domains; every newcomer is scored on them. The paper takes
100, but at its alpha of 0.3 all those before the last 24 weigh 0.02 % together (0.7 to the 24th)."""
FIT_DOCUMENTS = 400
"""At most this many documents a domain for a classifier."""


def fit_routers(
    cast: Cast,
    library: Library,
    domains: Sequence[Domain],
    routers: Sequence[str],
    *,
    seed: int,
    watch: Watch,
    window: int = 128,
) -> None:
    """Fit these routers for the domains, each of which has an expert of its name, and keep them."""
    splits = {domain.name: domain.split() for domain in domains}
    train = {name: split.train[:FIT_DOCUMENTS] for name, split in splits.items()}
    dev = {name: split.dev for name, split in splits.items()}
    texts = {name: [document.plain for document in documents] for name, documents in train.items()}
    held = {name: [document.plain for document in documents] for name, documents in dev.items()}

    def fit_clusters() -> None:
        found = discover([document for documents in train.values() for document in documents], len(texts), seed=seed)
        fit_cluster(library, clusters=found, documents_by_expert=texts)

    fits: dict[str, Callable[[], None]] = {
        "classifier": lambda: fit_classifier(library, texts_by_expert=texts, dev_by_expert=held, seed=seed),
        "cluster": fit_clusters,
        "cached_prior": lambda: fit_prior(cast, library, dev, window=window),
    }
    update = watch.begin("fitting routers", len(routers))
    for done, router in enumerate(routers, start=1):
        fits[router]()
        update(done)


def fit_prior(cast: Cast, library: Library, dev: Mapping[str, tuple[Document, ...]], *, window: int) -> None:
    """Fit the cached prior: each expert's log-likelihood of dev windows, and the windows themselves."""
    sequences = draw_sequences(dev, cast.base.tokenizer, window=window)
    names = tuple(name for name in cast.names if name != BASE)
    found = sequence_likelihoods(cast, sequences, names)
    fit_cached_prior(library, log_likelihoods=found, experts=names, sequences=sequences)


def draw_sequences(
    dev: Mapping[str, tuple[Document, ...]], tokenizer: Tokenizer | None, *, window: int
) -> CachedSequences:
    """Return dev windows, equally many a domain as far as its texts reach, the domains taking turns."""
    each = -(-CACHED_SEQUENCES // len(dev))
    windows = [cut(texts, tokenizer, window=window, budget_tokens=each * window) for texts in dev.values()]
    text = join_windows(windows)
    places = [(turn, number) for number, found in enumerate(windows) for turn in range(len(found))]
    chosen = sorted((place, row) for row, place in enumerate(places) if place[0] < each)
    rows, names = torch.tensor([row for _, row in chosen]), tuple(dev)
    return CachedSequences(text.tokens[rows], text.lengths[rows], tuple(names[place[1]] for place, _ in chosen))


def sequence_likelihoods(
    cast: Cast, sequences: CachedSequences, names: Sequence[str]
) -> Float[Tensor, "sequence expert"]:
    """Return the named experts' log-likelihoods of the cached sequences."""
    inside = torch.arange(sequences.tokens.shape[1]) < sequences.lengths[:, None]
    one = torch.ones_like(sequences.lengths)
    text = HeldOut(sequences.tokens, sequences.lengths, inside, inside.long(), one, sequences.domains)
    return fill_table(cast.voices(), text, names).log_probs.sum(1)
