"""Targets: a language model times scorers, P(x) = a(x) exp(sum_i s_i(f_i(x)))  [Khalifa et al. 2021; papers.md 3.1].

A constraint's factor is 1 or 0, a tilt's exp(weight f). A moment E_p[f] = mu is not a factor yet: `solved` finds the
tilt that it takes. Of all distributions with these constraints and moments, p = P / Z is the closest to a, by
KL(. || a).
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.draws import Draws
from collegium.align.moments import solve_tilts
from collegium.core.errors import CollegiumError, TargetError
from collegium.core.protocols import Feature, LanguageModel
from collegium.core.samples import Sample
from collegium.ops.matching import effective_sample_size, log_partition, weighted_mean

Values = Mapping[str, Float[Tensor, " sample"]]
"""Feature's name -> its values."""


@dataclass(frozen=True)
class Constraint:
    """Texts whose feature lies in [low, high] count, all others not at all."""

    feature: Feature
    low: float = 0.5
    high: float = math.inf

    def log_factor(self, values: Float[Tensor, " sample"]) -> Float[Tensor, " sample"]:
        """Return 0 for texts that count, -inf for the others.

        >>> from collegium.align.features import contains
        >>> Constraint(contains("she")).log_factor(torch.tensor([0.0, 1.0]))
        tensor([-inf, 0.])
        """
        kept = (values >= self.low) & (values <= self.high)
        return torch.zeros_like(values).masked_fill(~kept, -math.inf)


@dataclass(frozen=True)
class Tilt:
    """Texts count exp(weight f): a reward with weight 1 / beta, or the multiplier of a moment."""

    feature: Feature
    weight: float

    def log_factor(self, values: Float[Tensor, " sample"]) -> Float[Tensor, " sample"]:
        """Return weight f."""
        return self.weight * values


@dataclass(frozen=True)
class Moment:
    """The mean of a feature is to be `value`."""

    feature: Feature
    value: float


Part = Constraint | Tilt | Moment


@dataclass(frozen=True, eq=False)
class Target:
    """What a policy is moved to.

    reference: the original model a. parts: factors that multiply, and moments whose tilts are not known yet.
    wanted:    moments whose tilts are among the parts.
    """

    reference: LanguageModel
    parts: tuple[Part, ...]
    wanted: tuple[Moment, ...] = ()

    def __mul__(self, part: Part) -> "Target":
        """Return the target with one more factor."""
        return Target(self.reference, (*self.parts, part), self.wanted)

    @property
    def features(self) -> tuple[Feature, ...]:
        """All features, each once."""
        return tuple({part.feature.name: part.feature for part in (*self.parts, *self.wanted)}.values())

    @property
    def moments(self) -> tuple[Moment, ...]:
        """Moments that still wait for their tilts."""
        return tuple(part for part in self.parts if isinstance(part, Moment))

    @property
    def constraints(self) -> tuple[Constraint, ...]:
        """The hard constraints."""
        return tuple(part for part in self.parts if isinstance(part, Constraint))

    def values(self, samples: Sequence[Sample]) -> Values:
        """Return every feature's values of samples, in float64; raises TargetError where a feature fails."""
        return {feature.name: values_of(feature, samples) for feature in self.features}

    def log_factor(self, values: Values) -> Float[Tensor, " sample"]:
        """Return log b(x), the sum of all factors' logarithms."""
        assert not self.moments, "moments are solved before they are factors"
        total = torch.zeros(len(next(iter(values.values()))), dtype=torch.float64)
        for part in self.parts:
            assert not isinstance(part, Moment)
            total = total + part.log_factor(values[part.feature.name])
        return total

    def log_score(self, draws: Draws) -> Float[Tensor, " sample"]:
        """Return log P of texts: log a of each, and its factors."""
        return draws.log_prob(self.reference) + self.log_factor(self.values(draws.samples))

    def rewards(self, values: Values) -> Float[Tensor, " sample"]:
        """Return what a maximiser gets: 1 for each constraint that is kept, and every other feature's value."""
        total = torch.zeros(len(next(iter(values.values()))), dtype=torch.float64)
        for part in self.parts:
            own = values[part.feature.name]
            total = total + (part.log_factor(own).exp() if isinstance(part, Constraint) else own)
        return total


def values_of(feature: Feature, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
    """Return a feature's values in float64; raises TargetError when it raises, or gives no finite number for each."""
    try:
        found = torch.as_tensor(feature(samples)).detach().double().cpu()
    except CollegiumError:
        raise
    except Exception as error:
        raise TargetError(f"the feature {feature.name} failed on {len(samples)} texts: {error!r}.") from error
    if found.shape != (len(samples),):
        raise TargetError(
            f"the feature {feature.name} gives one number for each text: {len(samples)} texts, but values of shape "
            f"{tuple(found.shape)}."
        )
    strange = (~found.isfinite()).nonzero()[:, 0]
    if len(strange):
        shown = samples[int(strange[0])].completion
        raise TargetError(
            f"the feature {feature.name} gives {found[strange[0]].item()} for a text, which is no finite number: "
            f"{str(shown)!r:.100}."
        )
    return found


@dataclass(frozen=True)
class Solved:
    """A target whose moments are tilts, and what was seen on the texts that they were found on.

    log_z: of P. log_scale: the largest log P seen. base: each feature's mean under a. moments: the same under p.
    effective: the effective sample size of p's weights, of so many texts. moved: KL(p || a).
    """

    target: Target
    log_z: float
    log_scale: float
    base: Mapping[str, float]
    moments: Mapping[str, float]
    effective: float
    texts: int
    moved: float


def solved(target: Target, pool: Draws, *, values: Values | None = None) -> Solved:
    """Return the target with a tilt in place of every moment, found on texts of any proposal that reaches them.

    The tilts are those that give the self-normalised estimates sum_i w_i f(x_i) / sum_i w_i, with
    w_i = b(x_i) exp(lambda f(x_i)) a(x_i) / q(x_i), their wanted values  [papers.md 3.1].

    Raises TargetError when there is no factor, a feature never fires, a moment lies outside what is seen, or moments
    exclude each other.
    """
    if not target.parts:
        raise TargetError('a target has at least one factor, such as contains("she"); got none.')
    values = target.values(pool.samples) if values is None else values
    log_reference = pool.log_prob(target.reference)
    log_ratio = log_reference - pool.log_proposal
    fixed = Target(target.reference, tuple(part for part in target.parts if not isinstance(part, Moment)))
    log_weights = log_ratio + (fixed.log_factor(values) if fixed.parts else 0.0)
    check_fires(fixed.constraints, values)
    moments = target.moments
    tilts = solve_tilts(
        [values[each.feature.name] for each in moments],
        [each.value for each in moments],
        log_weights,
        names=[each.feature.name for each in moments],
    )
    parts = (*fixed.parts, *(Tilt(each.feature, weight) for each, weight in zip(moments, tilts, strict=True)))
    whole = Target(target.reference, parts, (*target.wanted, *moments))
    factor = whole.log_factor(values)
    log_weights = log_ratio + factor
    log_z = float(log_partition(log_weights, torch.zeros_like(log_weights)))
    names = [feature.name for feature in whole.features]
    return Solved(
        whole,
        log_z,
        float((log_reference + factor).max()),
        {name: weighted_mean(log_ratio, values[name]) for name in names},
        {name: weighted_mean(log_weights, values[name]) for name in names},
        effective_sample_size(log_weights),
        len(pool),
        weighted_mean(log_weights, torch.where(factor.isfinite(), factor, 0.0)) - log_z,
    )


def check_fires(constraints: Sequence[Constraint], values: Values) -> None:
    """Raise TargetError where no text keeps a constraint, or none keeps all of them at once."""
    kept = [each.log_factor(values[each.feature.name]) == 0 for each in constraints]
    for constraint, own in zip(constraints, kept, strict=True):
        if not bool(own.any()):
            raise TargetError(
                f"of {len(own)} texts none keeps the constraint on {constraint.feature.name}, so that nothing can be "
                "learnt from them. Draw more texts, or begin where it is likelier: another prompt, or an expert that "
                "says it more often as the proposal."
            )
    if kept and not bool(torch.stack(kept).all(0).any()):
        names = " and ".join(each.feature.name for each in constraints)
        raise TargetError(f"of {len(kept[0])} texts each constraint is kept by some, but {names} at once by none.")
