"""The suite accepts features of ours and refuses each way of breaking the contract, by name."""

from collections.abc import Callable, Sequence

import pytest
import torch

from collegium.align import features
from collegium.core.samples import Sample
from collegium.testing.feature import check_feature


@pytest.mark.parametrize(
    "feature",
    [
        features.contains("queen"),
        features.any_of("sea", "rent"),
        features.regex("[aeiou]{2}"),
        features.count_of("the"),
        features.female(),
        features.length(),
        features.compiles(),
    ],
    ids=lambda feature: feature.name,
)
def test_features_of_texts_keep_the_contract(feature: features.TextFeature) -> None:
    check_feature(feature)


class Bent:
    """A feature that breaks the contract in one way."""

    name = "bent"

    def __init__(self, fault: Callable[[Sequence[Sample]], object]) -> None:
        self.fault, self.calls = fault, 0

    def __call__(self, samples: Sequence[Sample]) -> object:
        self.calls += 1
        return self.fault(samples)


def lengths(samples: Sequence[Sample]) -> torch.Tensor:
    return torch.tensor([float(len(each.completion)) for each in samples])


def forgetful() -> Callable[[Sequence[Sample]], torch.Tensor]:
    calls = []

    def fault(samples: Sequence[Sample]) -> torch.Tensor:
        calls.append(1)
        return lengths(samples) + len(calls)

    return fault


@pytest.mark.parametrize(
    ("fault", "law"),
    [
        (lambda samples: lengths(samples).tolist(), "gives a tensor"),
        (lambda samples: lengths(samples)[:1], "one number a sample"),
        (lambda samples: lengths(samples).long(), "floating-point"),
        (lambda samples: lengths(samples) / 0 * 0, "finite"),
        (forgetful(), "asked again"),
        (lambda samples: lengths(samples) + torch.arange(len(samples)), "order"),
        (lambda samples: lengths(samples) - lengths(samples).sum() / 2, "on the others"),
        (lambda samples: lengths(samples) + (len(samples) > 5), "equal samples"),
    ],
)
def test_each_way_of_breaking_it_is_refused(fault: Callable, law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_feature(Bent(fault))


def test_a_feature_has_a_name() -> None:
    nameless = Bent(lengths)
    nameless.name = ""
    with pytest.raises(AssertionError, match="has a name"):
        check_feature(nameless)
