"""Ways to make one change of several: sums, averages, analogies, TIES, DARE, RegMean; all take and return changes."""

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.cards import Fingerprint
from collegium.core.errors import ConfigError, IncompatibleExpert
from collegium.core.randomness import generator
from collegium.experts.algebra.delta import Delta, Entrywise, Term, check_together
from collegium.models import LoraWeights
from collegium.ops import entrywise

DENSITY = 0.2
"""The share of entries that TIES and DARE keep."""
OFF_DIAGONAL = 0.9
"""How much RegMean trusts the correlations between a layer's inputs."""

Rule = Callable[[Sequence[Tensor]], Tensor]
Grams = Mapping[str, Float[Tensor, "_ _"]]
"""Module path -> sum_x x x^T over the inputs of that layer: inputs x inputs, of another size at another layer."""


def weighted_sum(deltas: Sequence[Delta], weights: Sequence[float]) -> Delta:
    """Return sum_e w_e d_e; weights need not sum to one. The factors stand side by side.

    Raises IncompatibleExpert for none, or changes that do not fit together; RoutingError for weights not finite.
    """
    check_together(deltas)
    if len(deltas) != len(weights):
        raise ConfigError(f"a weighted sum has one weight per expert; got {len(weights)} for {len(deltas)}.")
    total = weights[0] * deltas[0]
    for weight, delta in zip(weights[1:], deltas[1:], strict=True):
        total = total + weight * delta
    return total


def total(deltas: Sequence[Delta]) -> Delta:
    """Return the sum of changes: task arithmetic with scale one  [ilharco2023task]."""
    return weighted_sum(deltas, [1.0] * len(deltas))


def average(deltas: Sequence[Delta]) -> Delta:
    """Return the mean of changes: a uniform soup  [wortsman2022soups]; of IA3, the mean of the factors."""
    check_together(deltas)
    return weighted_sum(deltas, [1 / len(deltas)] * len(deltas))


def task_arithmetic(deltas: Sequence[Delta], *, scale: float = 1.0) -> Delta:
    """Return scale * sum_e d_e, one scale for all, chosen on dev text  [ilharco2023task]."""
    return scale * total(deltas)


def analogy(task_source: Delta, language_source: Delta, language_target: Delta, *, weight: float = 0.5) -> Delta:
    """Return a * task_source + (1 - a) * (language_target - language_source), domain transfer  [zhang2023composing].

    Departure: on changes, not on A and B separately, so that no cross terms appear (claim C3).
    """
    return weight * task_source + (1 - weight) * (language_target - language_source)


def ties(deltas: Sequence[Delta], *, density: float = DENSITY, scale: float = 1.0) -> Delta:
    """Return scale times the TIES merge: trim, elect sign, disjoint mean, entry by entry  [yadav2023ties].

    Departure: each layer is trimmed by itself, so that only one is multiplied out at a time; the paper trims all of an
    expert's numbers together.
    """
    _check_density(density)
    return scale * _by_layer(deltas, lambda path: partial(entrywise.ties, density=density))


def dare(deltas: Sequence[Delta], *, density: float = DENSITY, seed: int = 0) -> Delta:
    """Return the sum of changes of which a share of entries, drawn by the seed, was dropped and the rest rescaled.

    [yu2024dare]; the sum itself in expectation. What is dropped depends on an expert's place among the others.
    """
    _check_density(density)
    check_together(deltas)

    def rule(path: str, place: int) -> Rule:
        return lambda tensors: entrywise.dropped(
            tensors[0], density, generator=generator(seed, "dare", path, str(place))
        )

    return total([_by_layer([delta], partial(rule, place=place)) for place, delta in enumerate(deltas)])


def regmean(deltas: Sequence[Delta], grams: Sequence[Grams], *, off_diagonal: float = OFF_DIAGONAL) -> Delta:
    """Return the change whose outputs are nearest to every expert's own on that expert's inputs  [jin2023regmean].

    argmin_D sum_e ||(D - D_e) X_e||^2 = (sum_e D_e G_e) (sum_e G_e)^-1,   G_e = X_e X_e^T

    The base's matrix cancels, and D_e G_e = s B_e (A_e G_e) keeps its factors. Entries of G_e off its diagonal are
    multiplied by `off_diagonal` (1 = plain least squares; the paper takes 0.9, and 0.1 for T5). Where the inputs leave
    the answer open, the smallest change is taken.

    grams: for each change, those of its own expert's inputs at every layer that any of them changes.

    Raises IncompatibleExpert for changes that are no sums of LoRA's factors, ConfigError for missing Gram matrices.
    """
    check_together(deltas)
    if len(grams) != len(deltas):
        raise ConfigError(f"regmean takes one set of Gram matrices per expert; got {len(grams)} for {len(deltas)}.")
    layers = {}
    for path in _together(deltas).layers:
        own = [_shrunk(_gram(each, path), off_diagonal) for each in grams]
        inverse = torch.linalg.pinv(torch.stack(own).sum(0), hermitian=True)
        layers[path] = tuple(
            Term(term.weight, _regressed(term, gram @ inverse, path))
            for delta, gram in zip(deltas, own, strict=True)
            for term in delta.layers.get(path, ())
        )
    return Delta(deltas[0].kind, layers, _base_of(deltas))


def _check_density(density: float) -> None:
    if not 0 < density <= 1:
        raise ConfigError(f"a density is the share of entries kept, above 0 and at most 1, got {density:g}.")


def _by_layer(deltas: Sequence[Delta], rule: Callable[[str], Rule]) -> Delta:
    """Return the change that a rule makes of several, at every layer that any of them has; absent ones are zero."""
    check_together(deltas)
    layers = {}
    for path, terms in _together(deltas).layers.items():
        inputs = tuple(delta.layers.get(path, ()) for delta in deltas)
        layers[path] = (Term(1.0, Entrywise(rule(path), inputs, terms[0].layout)),)
    return Delta(deltas[0].kind, layers, _base_of(deltas))


def _together(deltas: Sequence[Delta]) -> Delta:
    """Return all parts of all changes; raises IncompatibleExpert where they are not of one layout."""
    paths = dict.fromkeys(path for delta in deltas for path in delta.layers)
    layers = {path: tuple(term for delta in deltas for term in delta.layers.get(path, ())) for path in paths}
    return Delta(deltas[0].kind, layers)


def _base_of(deltas: Sequence[Delta]) -> Fingerprint | None:
    return next((delta.base for delta in deltas if delta.base is not None), None)


def _gram(grams: Grams, path: str) -> Float[Tensor, "input input"]:
    if path not in grams:
        raise ConfigError(f"regmean needs the Gram matrix of every expert's inputs at {path}; collect it there too.")
    return grams[path].double()


def _shrunk(gram: Float[Tensor, "input input"], off_diagonal: float) -> Float[Tensor, "input input"]:
    if not 0 <= off_diagonal <= 1:
        raise ConfigError(f"regmean multiplies entries off the diagonal by 0 to 1, got {off_diagonal:g}.")
    return off_diagonal * gram + (1 - off_diagonal) * gram.diagonal().diag()


def _regressed(term: Term, factor: Float[Tensor, "input input"], path: str) -> LoraWeights:
    """Return B_e (A_e G_e (sum G)^-1)."""
    part = term.part
    if not isinstance(part, LoraWeights):
        raise IncompatibleExpert(f"regmean merges sums of low-rank changes; at {path} there is another kind of change.")
    return LoraWeights((part.a.detach().double() @ factor).to(part.a.dtype), part.b, part.scale)
