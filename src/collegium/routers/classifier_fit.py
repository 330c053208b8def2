"""Fitting the classifier's rows: a background once, then one row per expert that touches no other."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.core.protocols import Shelf
from collegium.core.randomness import derive_seed
from collegium.core.tables import nearest
from collegium.routers.classifier import CLASSIFIER, length_share
from collegium.routers.features import BUCKETS, Sparse, count_features, excerpts, inverse_frequency, scaled
from collegium.routers.fitted import Fit, change_fit, fit_card, with_row, without_row

if TYPE_CHECKING:
    from scipy.sparse import csr_matrix

WORDS = (24, 8, 96, 48)
"""Excerpt lengths in words: prompts of about 32 tokens first, shorter and longer ones between them."""
_TRAIN, _DEV, _BACKGROUND_TRAIN, _BACKGROUND_DEV = 400, 200, 200, 100


def fit_classifier(
    shelf: Shelf,
    name: str = CLASSIFIER,
    *,
    texts_by_expert: Mapping[str, Sequence[str]],
    dev_by_expert: Mapping[str, Sequence[str]],
    seed: int = 0,
) -> None:
    """Keep a new background and a row for each expert, from its training texts and, to calibrate, its dev texts.

    Raises RoutingError with fewer than two experts: one-versus-rest needs a rest.
    """
    experts = sorted(texts_by_expert)
    if len(experts) < 2:
        raise RoutingError(f"classifier: a first fit tells at least two experts apart, got {experts}.")
    samples = {each: _sample(each, texts_by_expert[each], dev_by_expert.get(each, ()), seed=seed) for each in experts}
    tensors = _background(experts, samples)
    card = fit_card(CLASSIFIER, shelf, experts=experts, first=experts, seed=seed)
    for each in experts:
        tensors |= _row(each, samples[each], tensors, card=card)
    shelf.save_router(name, tensors, card)


def grow_classifier(
    shelf: Shelf, name: str = CLASSIFIER, *, expert: str, texts: Sequence[str], dev: Sequence[str]
) -> None:
    """Write one expert's row, against the background of the first fit; no other row changes."""

    def add(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        row = _row(expert, _sample(expert, texts, dev, seed=card["seed"]), tensors, card=card)
        return {**tensors, **row}, with_row(card, shelf, expert)

    change_fit(shelf, name, add, router=CLASSIFIER)


def shrink_classifier(shelf: Shelf, name: str = CLASSIFIER, *, expert: str) -> None:
    """Drop one expert's row; its share of the background, if it took part in the first fit, stays until a new fit."""

    def drop(tensors: dict[str, Tensor], card: dict[str, Any]) -> Fit:
        if expert not in card["experts"]:
            raise RoutingError(f"classifier: the fit has no expert {expert!r}. {nearest(expert, card['experts'])}")
        kept = {key: each for key, each in tensors.items() if key not in (f"row.{expert}", f"calibration.{expert}")}
        return kept, without_row(card, expert)

    change_fit(shelf, name, drop, router=CLASSIFIER)


_Sample = tuple[list[Sparse], list[Sparse]]


def _sample(expert: str, texts: Sequence[str], dev: Sequence[str], *, seed: int) -> _Sample:
    """Return features of excerpts of an expert's training and dev texts."""
    parts: list[list[Sparse]] = []
    for part, source, most in (("training", texts, _TRAIN), ("dev", dev, _DEV)):
        drawn = excerpts(source, words=WORDS, most=most, seed=derive_seed(seed, expert, part))
        features = [each for each in map(count_features, drawn) if each.words]
        if not features:
            raise RoutingError(f"classifier: expert {expert!r} has no {part} text with a word in it.")
        parts.append(features)
    return parts[0], parts[1]


def _background(experts: Sequence[str], samples: Mapping[str, _Sample]) -> dict[str, Tensor]:
    """Return the rest as tensors: features of excerpts, whose they are, and whether they calibrate."""
    rest = [
        (each, owner, part)
        for owner, expert in enumerate(experts)
        for part, most in ((0, _BACKGROUND_TRAIN), (1, _BACKGROUND_DEV))
        for each in samples[expert][part][:most]
    ]
    return {
        "inverse_frequency": inverse_frequency([each for each, _, part in rest if part == 0]),
        "background.index": torch.cat([each.index for each, _, _ in rest]).int(),
        "background.weight": torch.cat([each.weight for each, _, _ in rest]),
        "background.size": torch.tensor([len(each.index) for each, _, _ in rest]),
        "background.words": torch.tensor([each.words for each, _, _ in rest]),
        "background.owner": torch.tensor([owner for _, owner, _ in rest]),
        "background.dev": torch.tensor([part == 1 for _, _, part in rest]),
    }


def _rest(tensors: Mapping[str, Tensor], *, without: int, dev: bool) -> list[Sparse]:
    """Return the background's excerpts for training or calibrating, without those of one owner."""
    sizes = tensors["background.size"].tolist()
    indices = tensors["background.index"].long().split(sizes)
    weights = tensors["background.weight"].split(sizes)
    chosen = (tensors["background.owner"] != without) & (tensors["background.dev"] == dev)
    words = tensors["background.words"].tolist()
    return [Sparse(indices[row], weights[row], words[row]) for row in chosen.nonzero().flatten().tolist()]


def _row(expert: str, sample: _Sample, tensors: Mapping[str, Tensor], *, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return one expert's row and calibration."""
    from sklearn.linear_model import LogisticRegression

    owners: list[str] = card["first"]
    own = owners.index(expert) if expert in owners else -1
    inverse = tensors["inverse_frequency"]
    train, dev = sample[0], sample[1]
    rest, rest_dev = _rest(tensors, without=own, dev=False), _rest(tensors, without=own, dev=True)
    words = LogisticRegression(C=10.0, class_weight="balanced", solver="liblinear", random_state=0)
    words.fit(_matrix([*train, *rest], inverse), [1] * len(train) + [0] * len(rest))
    raw = torch.from_numpy(words.decision_function(_matrix([*dev, *rest_dev], inverse)))
    shares = torch.tensor([length_share(each.words) for each in [*dev, *rest_dev]], dtype=torch.float64)
    platt = LogisticRegression(C=1.0, class_weight="balanced")
    platt.fit(torch.stack([raw, raw * shares], dim=1).numpy(), [1] * len(dev) + [0] * len(rest_dev))
    intercept, offset = (float(np.asarray(each.intercept_)[0]) for each in (words, platt))
    calibration = [intercept, *platt.coef_[0].tolist(), offset, len(owners) - (own >= 0)]
    return {
        f"row.{expert}": torch.from_numpy(words.coef_[0]).float(),
        f"calibration.{expert}": torch.tensor(calibration, dtype=torch.float64),
    }


def _matrix(texts: Sequence[Sparse], inverse: Tensor) -> "csr_matrix":
    """Return the tf-idf vectors as a sparse matrix."""
    from scipy.sparse import csr_matrix

    weights = torch.cat([scaled(each, inverse) for each in texts]).double().numpy()
    columns = torch.cat([each.index for each in texts]).numpy()
    starts = torch.tensor([0, *(len(each.index) for each in texts)]).cumsum(0).numpy()
    return csr_matrix((weights, columns, starts), shape=(len(texts), BUCKETS))
