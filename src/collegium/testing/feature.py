"""What all features must satisfy, whatever they judge: reward models, words, functions of a user's own."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.protocols import Feature
from collegium.core.samples import Sample

_SAMPLES = (
    Sample("Once upon a time", " there was a queen."),
    Sample("Once upon a time", " she went to the sea, and her ship was lost; nobody ever saw it again."),
    Sample("def add(a, b):", "\n    return a + b\n"),
    Sample("The court finds", " that he owes rent."),
    Sample("Grüß", " Gott 🙂"),
)


def check_feature(feature: Feature, *, samples: Sequence[Sample] = _SAMPLES, tolerance: float = 1e-4) -> None:
    """Return nothing when a feature keeps its contract; raise AssertionError with what broke.

    The laws: it has a name; it gives a finite number for each sample, and none for no samples; asked again it says the
    same, to the last bit; a sample's number does not depend on the others, on their order or on their number (across
    batch shapes within the tolerance); it leaves the samples alone.

    samples: at least two, different ones.

    >>> from collegium.align.features import contains
    >>> check_feature(contains("queen"))
    """
    assert isinstance(feature.name, str), "a feature's name is a text"
    assert feature.name, "a feature has a name"
    before = list(samples)
    values = _values(feature, samples)
    assert list(samples) == before, "a feature leaves the samples alone"
    assert torch.equal(values, _values(feature, samples)), "asked again, a feature says the same"
    assert len(_values(feature, [])) == 0, "a feature says nothing of no samples"
    backwards = _values(feature, samples[::-1])
    assert _close(values, backwards.flip(0), tolerance), "a sample's number does not depend on the order"
    alone = torch.cat([_values(feature, [each]) for each in samples])
    assert _close(values, alone, tolerance), "a sample's number does not depend on the others"
    twice = _values(feature, [*samples, *samples])
    assert _close(torch.cat([values, values]), twice, tolerance), "equal samples have equal numbers"


def _values(feature: Feature, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
    found = feature(samples)
    assert isinstance(found, Tensor), f"a feature gives a tensor, got {type(found).__name__}"
    assert found.shape == (len(samples),), f"a feature gives one number a sample, got shape {tuple(found.shape)}"
    assert found.is_floating_point(), f"a feature gives floating-point numbers, got {found.dtype}"
    assert bool(found.isfinite().all()), "a feature gives finite numbers"
    return found.detach().double().cpu()


def _close(one: Tensor, other: Tensor, tolerance: float) -> bool:
    return bool(((one - other).abs() <= tolerance * (1 + one.abs())).all())
