"""How alike two changes of a base are: the cosine of what they add to its numbers."""

import math

import torch
from torch import Tensor

from collegium.experts.algebra.delta import Delta, Term, check_together
from collegium.models import LoraWeights


def delta_similarity(one: Delta, other: Delta) -> float:
    """Return the cosine between two changes, over all layers together; 0 where either changes nothing.

    <D, D'> = sum over layers of tr(D^T D'); for low-rank parts tr((B A)^T B' A') = sum((B^T B') * (A A'^T)), so that
    no matrix is multiplied out and ranks may differ. Unlike raw A and B, it does not depend on how a change is
    factored: experts that began from other first weights are compared as well as any.

    Raises IncompatibleExpert for changes of different kinds or bases.

    >>> from collegium.experts.algebra import delta_of_adapter
    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> law = delta_of_adapter(random_adapter(pico_base()))
    >>> round(delta_similarity(law, -0.5 * law), 4)
    -1.0
    """
    check_together((one, other))
    size = math.sqrt(_inner(one, one) * _inner(other, other))
    return _inner(one, other) / size if size else 0.0


def _inner(one: Delta, other: Delta) -> float:
    shared = [path for path in one.layers if path in other.layers]
    return math.fsum(
        _product(first, second) for path in shared for first in one.layers[path] for second in other.layers[path]
    )


def _product(first: Term, second: Term) -> float:
    a, b = first.part, second.part
    if isinstance(a, LoraWeights) and isinstance(b, LoraWeights):
        left, right = _double(a.b).T @ _double(b.b), _double(a.a) @ _double(b.a).T
        return first.weight * second.weight * a.scale * b.scale * float((left * right).sum())
    return float((first.change(torch.float64) * second.change(torch.float64)).sum())


def _double(tensor: Tensor) -> Tensor:
    return tensor.detach().double().cpu()
