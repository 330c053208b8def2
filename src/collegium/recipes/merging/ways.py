"""The ways to merge: from the operands to one change, with what was found on the way."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from collegium.compose import adapter_soup, blend_loss, greedy_soup, search_weights, text_similarity
from collegium.core.errors import ConfigError
from collegium.data import Corpus, cut
from collegium.experts.algebra import (
    Delta,
    average,
    collect_grams,
    compress,
    dare,
    regmean,
    ties,
    total,
    weighted_sum,
)
from collegium.models import Base
from collegium.recipes.merging.operands import Operands, own_documents
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class Reading:
    """What a way may read: the base, the new text and the experts' own; None where the way needs none of it."""

    base: Base | None
    data: Corpus | None
    texts: Corpus | None
    watch: Watch


@dataclass(frozen=True)
class Settings:
    """The numbers of the ways.

    density, seed: of TIES and DARE. nearest: of AdapterSoup. penalty, evaluations: of the search.
    tokens, window: how much text is read, at most, and how it is cut.
    """

    density: float
    seed: int
    nearest: int
    penalty: float
    evaluations: int
    tokens: int
    window: int


@dataclass(frozen=True)
class Merge:
    """One change made of several.

    weights: of the operands, where the way is a weighted sum. found: what the way has to tell.
    """

    delta: Delta
    weights: Mapping[str, float] | None = None
    found: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Way:
    """A row of the table: what it does, whether it needs the base, the new text, the experts' own texts.

    paper: key in docs/papers.md.
    """

    run: Callable[[Operands, Settings, Reading], Merge]
    paper: str
    base: bool = False
    data: bool = False
    texts: bool = False


def _linear(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    return Merge(total(operands.deltas), dict.fromkeys(operands.texts, 1.0))


def _average(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    return Merge(average(operands.deltas), dict.fromkeys(operands.texts, 1 / len(operands.each)))


def _ties(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    return Merge(ties(operands.deltas, density=settings.density))


def _dare(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    return Merge(dare(operands.deltas, density=settings.density, seed=settings.seed))


def _regmean(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    """Return the regression mean; every expert reads the training text of its own domain."""
    assert reading.base is not None
    assert reading.texts is not None
    names = operands.names(method="regmean")
    own = own_documents(reading.texts, names)
    paths = dict.fromkeys(path for delta in operands.deltas for path in delta.layers)
    grams, update = [], reading.watch.begin("inputs of every layer", len(names))
    with _attached(reading.base, operands) as keys:
        for done, (text, name) in enumerate(zip(operands.texts, names, strict=True), start=1):
            windows = cut(own[name], reading.base.tokenizer, window=settings.window, budget_tokens=settings.tokens)
            grams.append(collect_grams(reading.base, windows, paths, expert=keys[text]))
            update(done)
    return Merge(regmean(operands.deltas, grams))


def _searched(operands: Operands, settings: Settings, reading: Reading, *, soup: bool) -> Merge:
    """Return the blend of least loss on the dev text of the data."""
    base, data = reading.base, reading.data
    assert base is not None
    assert data is not None
    documents = [document for domain in data for document in domain.split().dev]
    update = reading.watch.begin("searching weights", settings.evaluations)
    asked = 0
    with _attached(base, operands) as keys:
        loss = blend_loss(
            base, keys, documents, tokenizer=base.tokenizer, tokens=settings.tokens, window=settings.window
        )

        def counted(weights: Mapping[str, float]) -> float:
            nonlocal asked
            asked += 1
            update(min(asked, settings.evaluations))
            return loss(weights)

        before = loss({})
        if soup:
            found = greedy_soup(counted, operands.texts)
        else:
            found = search_weights(counted, operands.texts, penalty=settings.penalty, evaluations=settings.evaluations)
    update(settings.evaluations)
    if not found.weights:
        raise ConfigError("no blend of these experts is better than the base on this text; nothing was made.")
    told = {"base_nats_per_token": before, "nats_per_token": found.loss, "evaluations": found.evaluations}
    return _weighted(operands, found.weights, {"search": told})


def _lorahub(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    return _searched(operands, settings, reading, soup=False)


def _soup(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    return _searched(operands, settings, reading, soup=True)


def _adaptersoup(operands: Operands, settings: Settings, reading: Reading) -> Merge:
    """Return the average of the experts whose training texts are nearest to the data's."""
    assert reading.data is not None
    assert reading.texts is not None
    names = operands.names(method="adaptersoup")
    own = {name: [each.plain for each in texts] for name, texts in own_documents(reading.texts, names).items()}
    new = [document.plain for domain in reading.data for part in (domain.split(),) for document in part.train]
    similarity = text_similarity(new, own)
    return _weighted(operands, adapter_soup(similarity, nearest=settings.nearest), {"similarity": similarity})


WAYS: Mapping[str, Way] = {
    "linear": Way(_linear, "ilharco2023task"),
    "average": Way(_average, "wortsman2022soups"),
    "ties": Way(_ties, "yadav2023ties"),
    "dare": Way(_dare, "yu2024dare"),
    "regmean": Way(_regmean, "jin2023regmean", base=True, texts=True),
    "lorahub": Way(_lorahub, "huang2023lorahub", base=True, data=True),
    "soup": Way(_soup, "wortsman2022soups", base=True, data=True),
    "adaptersoup": Way(_adaptersoup, "chronopoulou2023adaptersoup", data=True, texts=True),
}
"""What `--method` may say."""


def _weighted(operands: Operands, weights: Mapping[str, float], found: Mapping[str, Any]) -> Merge:
    each = [weights.get(text, 0.0) for text in operands.texts]
    return Merge(weighted_sum(operands.deltas, each), dict(zip(operands.texts, each, strict=True)), found)


@contextmanager
def _attached(base: Base, operands: Operands) -> Iterator[dict[str, str]]:
    """Let every operand speak for a while; give text -> what it is attached under."""
    keys = {text: f"operand {place}: {text}" for place, text in enumerate(operands.texts)}
    try:
        for operand in operands.each:
            base.attach(keys[operand.text], compress(operand.delta).adapter)
        yield keys
    finally:
        for key in keys.values():
            if key in base.attached:
                base.detach(key)
