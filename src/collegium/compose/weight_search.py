"""Weights of experts found without gradients, on held-out text: LoraHub-like search, greedy soup, AdapterSoup."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy
import torch

from collegium.core.errors import ConfigError
from collegium.core.protocols import Tokenizer
from collegium.data import Document, cut
from collegium.models import Base, RowPlan
from collegium.routers.features import BUCKETS, count_features, inverse_frequency, scaled

BOUND = 1.5
"""No weight is searched beyond plus or minus this, as in LoraHub."""
_FIRST_STEP = 0.25
_BATCH = 8

Loss = Callable[[Mapping[str, float]], float]
"""Weights of experts -> nats a token; experts left out weigh nothing."""


@dataclass(frozen=True)
class FoundWeights:
    """Weights of those experts that have any, their loss in nats a token, and how often the loss was asked for."""

    weights: Mapping[str, float]
    loss: float
    evaluations: int


def blend_loss(
    base: Base,
    keys: Mapping[str, str],
    documents: Sequence[Document],
    *,
    tokenizer: Tokenizer | None,
    tokens: int,
    window: int = 128,
) -> Loss:
    """Return the loss of a blend of attached experts on documents, cut into windows of so many tokens in all.

    keys: name -> what an expert is attached to the base under.
    """
    text = cut(documents, tokenizer, window=window, budget_tokens=tokens)

    def loss(weights: Mapping[str, float]) -> float:
        live = [name for name, weight in weights.items() if weight]
        blend = torch.tensor([weights[name] for name in live]).view(1, 1, -1)
        plan = RowPlan.blend([keys[name] for name in live], blend)
        nats = 0.0
        for rows in torch.arange(len(text)).split(_BATCH):
            longest = int(text.lengths[rows].max())
            lengths, scored = text.lengths[rows], text.scored[rows, :longest]
            scores = base.score_rows(text.tokens[rows, :longest], lengths=lengths, plan=plan, scored=scored)
            nats -= float(scores.double().sum())
        return nats / max(int(text.scored.sum()), 1)

    return loss


def search_weights(loss: Loss, names: Sequence[str], *, penalty: float = 0.05, evaluations: int = 80) -> FoundWeights:
    """Return weights that make loss + penalty * sum_e |w_e| small, in as many evaluations  [huang2023lorahub].

    No expert, each alone and all in equal parts come first; from the best of them COBYLA goes on within the bounds: it
    fits a plane to the losses seen and steps down it, so that every weight is tried within as many evaluations as
    there are experts. What comes out is never worse than any of those, and the same each time.

    Departures: the weights blend changes, not A and B by themselves; COBYLA in place of an evolution strategy.

    Raises ConfigError for no expert, or fewer evaluations than there are starts.

    >>> found = search_weights(lambda weights: (weights.get("law", 0) - 0.7) ** 2, ["law", "code"], penalty=0.0)
    >>> round(found.weights["law"], 3)
    0.7
    """
    from scipy.optimize import minimize

    starts = _starts(names)
    if evaluations < len(starts):
        raise ConfigError(
            f"a search over {len(names)} begins with {len(starts)} evaluations, got {evaluations}; allow more."
        )
    asked = _Asked(loss, tuple(names), penalty, evaluations)
    values = [asked(start) for start in starts]
    first = starts[min(range(len(starts)), key=values.__getitem__)]
    with contextlib.suppress(_SpentError):
        minimize(asked, first, method="COBYLA", tol=1e-4, options={"rhobeg": _FIRST_STEP, "maxiter": evaluations})
    weights = {name: float(weight) for name, weight in zip(names, asked.best, strict=True) if weight}
    return FoundWeights(weights, float(asked.nats), asked.count)


def greedy_soup(loss: Loss, names: Sequence[str]) -> FoundWeights:
    """Return the average of the experts that lower the loss, tried from the best to the worst  [wortsman2022soups].

    Raises ConfigError for no expert.

    >>> greedy_soup(lambda weights: abs(sum(weights.values()) - 1) + ("bad" in weights), ["bad", "good"]).weights
    {'good': 1.0}
    """
    if not names:
        raise ConfigError("a soup needs at least one expert.")
    alone = {name: loss({name: 1.0}) for name in names}
    order = sorted(names, key=alone.__getitem__)
    chosen, best, count = [order[0]], alone[order[0]], len(names)
    for name in order[1:]:
        tried = [*chosen, name]
        found = loss(dict.fromkeys(tried, 1 / len(tried)))
        count += 1
        if found <= best:
            chosen, best = tried, found
    return FoundWeights(dict.fromkeys(chosen, 1 / len(chosen)), best, count)


def text_similarity(texts: Sequence[str], own: Mapping[str, Sequence[str]]) -> dict[str, float]:
    """Return how near texts are to each expert's own: the cosine of their mean tf-idf vectors.

    >>> near = text_similarity(["the court held"], {"law": ["the court found"], "code": ["def f(x)"]})
    >>> near["law"] > near["code"]
    True
    """
    counted = {name: [count_features(text) for text in each] for name, each in own.items()}
    inverse = inverse_frequency([text for each in counted.values() for text in each])

    def centre(features: Sequence[Any]) -> torch.Tensor:
        total = torch.zeros(BUCKETS)
        for each in features:
            total[each.index] += scaled(each, inverse)
        return total / total.norm().clamp(min=1e-12)

    asked = centre([count_features(text) for text in texts])
    return {name: float(asked @ centre(each)) for name, each in counted.items()}


def adapter_soup(similarity: Mapping[str, float], *, nearest: int) -> dict[str, float]:
    """Return equal weights for the experts whose texts are the nearest  [chronopoulou2023adaptersoup].

    >>> adapter_soup({"law": 0.9, "code": 0.1, "verse": 0.4}, nearest=2)
    {'law': 0.5, 'verse': 0.5}
    """
    if not 1 <= nearest <= len(similarity):
        raise ConfigError(f"of {len(similarity)} experts 1 to {len(similarity)} can be the nearest, got {nearest}.")
    chosen = sorted(similarity, key=lambda name: -similarity[name])[:nearest]
    return dict.fromkeys(chosen, 1 / nearest)


class _SpentError(Exception):
    """The evaluations are used up."""


class _Asked:
    """The penalised loss, counting how often it is asked for and keeping the best."""

    def __init__(self, loss: Loss, names: tuple[str, ...], penalty: float, most: int) -> None:
        self.loss, self.names, self.penalty, self.most = loss, names, penalty, most
        self.count, self.best, self.least, self.nats = 0, numpy.zeros(len(names)), numpy.inf, numpy.inf

    def __call__(self, weights: Any) -> float:  # noqa: ANN401 - numpy's array
        if self.count >= self.most:
            raise _SpentError
        self.count += 1
        weights = numpy.clip(weights, -BOUND, BOUND)
        nats = self.loss({name: float(weight) for name, weight in zip(self.names, weights, strict=True) if weight})
        value = nats + self.penalty * float(numpy.abs(weights).sum())
        if value < self.least:
            self.best, self.least, self.nats = numpy.array(weights), value, nats
        return value


def _starts(names: Sequence[str]) -> list[Any]:
    if not names:
        raise ConfigError("a search needs at least one expert.")
    size = len(names)
    return [numpy.zeros(size), *numpy.eye(size), *([numpy.full(size, 1 / size)] if size > 1 else [])]
