"""Fitting the classifier's rows: a background once, then one row per expert that touches no other."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
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
    from sklearn.linear_model import LogisticRegression

WORDS = (24, 8, 96, 48)
"""Excerpt lengths in words: prompts of about 32 tokens first, shorter and longer ones between them."""
_TRAIN, _DEV, _BACKGROUND_TRAIN, _BACKGROUND_DEV = 400, 200, 200, 100
_FOLDS = 4
"""Into how many parts the background's domains are divided, each left out once to see how unseen domains look."""


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


def _rest(tensors: Mapping[str, Tensor], owners: Sequence[int], *, dev: bool) -> list[Sparse]:
    """Return the background's excerpts of these owners, for training or for calibrating."""
    sizes = tensors["background.size"].tolist()
    indices = tensors["background.index"].long().split(sizes)
    weights = tensors["background.weight"].split(sizes)
    chosen = torch.isin(tensors["background.owner"], torch.tensor(owners)) & (tensors["background.dev"] == dev)
    words = tensors["background.words"].tolist()
    return [Sparse(indices[row], weights[row], words[row]) for row in chosen.nonzero().flatten().tolist()]


def _row(expert: str, sample: _Sample, tensors: Mapping[str, Tensor], *, card: Mapping[str, Any]) -> dict[str, Tensor]:
    """Return one expert's row and calibrations: against the rest it was fitted on, and against domains it never saw."""
    owners: list[str] = card["first"]
    others = [place for place, owner in enumerate(owners) if owner != expert]
    words = _words(sample, tensors, others)
    against = _platt([_Judged.of(words, sample, tensors, others)])
    folds = [others[start::_FOLDS] for start in range(min(_FOLDS, len(others)))] if len(others) > 1 else []
    unseen = []
    for left_out in folds:
        seen = [place for place in others if place not in left_out]
        unseen.append(_Judged.of(_words(sample, tensors, seen), sample, tensors, left_out))
    calibration = [
        float(np.asarray(words.intercept_)[0]),
        *against,
        len(others),
        *(_platt(unseen) if unseen else against),
    ]
    return {
        f"row.{expert}": torch.from_numpy(words.coef_[0]).float(),
        f"calibration.{expert}": torch.tensor(calibration, dtype=torch.float64),
    }


def _words(sample: _Sample, tensors: Mapping[str, Tensor], rest: Sequence[int]) -> "LogisticRegression":
    """Return the regression that tells an expert's training excerpts from those of these owners."""
    from sklearn.linear_model import LogisticRegression

    own, others = sample[0], _rest(tensors, rest, dev=False)
    words = LogisticRegression(C=10.0, class_weight="balanced", solver="liblinear", random_state=0)
    return words.fit(_matrix([*own, *others], tensors["inverse_frequency"]), [1] * len(own) + [0] * len(others))


@dataclass(frozen=True)
class _Judged:
    """What a regression said about held-out excerpts: its raw score, their lengths, and whose they are."""

    raw: Tensor
    shares: Tensor
    own: list[int]

    @staticmethod
    def of(
        words: "LogisticRegression", sample: _Sample, tensors: Mapping[str, Tensor], rest: Sequence[int]
    ) -> "_Judged":
        """Return it for the expert's dev excerpts and those of these owners."""
        own, others = sample[1], _rest(tensors, rest, dev=True)
        excerpts = [*own, *others]
        raw = torch.from_numpy(words.decision_function(_matrix(excerpts, tensors["inverse_frequency"])))
        shares = torch.tensor([length_share(each.words) for each in excerpts], dtype=torch.float64)
        return _Judged(raw, shares, [1] * len(own) + [0] * len(others))


def _platt(judged: Sequence[_Judged]) -> list[float]:
    """Return slope, slope with length and offset of the log-odds that an excerpt is the expert's, at equal odds."""
    from sklearn.linear_model import LogisticRegression

    raw, shares = torch.cat([each.raw for each in judged]), torch.cat([each.shares for each in judged])
    platt = LogisticRegression(C=1.0, class_weight="balanced")
    platt.fit(torch.stack([raw, raw * shares], dim=1).numpy(), [own for each in judged for own in each.own])
    return [*platt.coef_[0].tolist(), float(np.asarray(platt.intercept_)[0])]


def _matrix(texts: Sequence[Sparse], inverse: Tensor) -> "csr_matrix":
    """Return the tf-idf vectors as a sparse matrix."""
    from scipy.sparse import csr_matrix

    weights = torch.cat([scaled(each, inverse) for each in texts]).double().numpy()
    columns = torch.cat([each.index for each in texts]).numpy()
    starts = torch.tensor([0, *(len(each.index) for each in texts)]).cumsum(0).numpy()
    return csr_matrix((weights, columns, starts), shape=(len(texts), BUCKETS))
