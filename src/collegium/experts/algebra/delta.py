"""Changes of a base as values: added, scaled, negated; kept as factors until somebody asks for an adapter.

A LoRA expert changes a matrix by s B A, an IA3 expert a layer's numbers by the factors l, which is a shift of l - 1.
Both form a vector space, so one algebra serves both: a sum of changes is the list of its weighted parts.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from collegium.core.cards import Fingerprint
from collegium.core.errors import IncompatibleExpert, RoutingError
from collegium.models import Adapter, Ia3Weights, LoraWeights

KINDS = ("lora", "ia3")
"""The kinds of experts that are sums of changes."""


@dataclass(frozen=True)
class Layout:
    """What a layer's change looks like: a matrix (outputs, inputs), or the factors of one side."""

    shape: tuple[int, ...]
    side: str = ""

    @property
    def words(self) -> str:
        """What messages say about it."""
        return f"{self.side} factors {self.shape}" if self.side else f"a matrix {self.shape}"


@dataclass(frozen=True, eq=False)
class Entrywise:
    """A change of one layer that has no factors: a rule over the entries of several, computed when it is asked for."""

    rule: Callable[[Sequence[Tensor]], Tensor]
    inputs: tuple[tuple["Term", ...], ...]
    layout: Layout

    @property
    def rank(self) -> int:
        """The ranks of what it is made of, together."""
        return sum(term.part.rank for terms in self.inputs for term in terms if not isinstance(term.part, Ia3Weights))

    def change(self, dtype: torch.dtype) -> Tensor:
        """Return its entries."""
        return self.rule([entries(terms, self.layout, dtype) for terms in self.inputs])


ChangePart = LoraWeights | Ia3Weights | Entrywise


@dataclass(frozen=True, eq=False)
class Term:
    """A weighted part of a sum."""

    weight: float
    part: ChangePart

    @property
    def layout(self) -> Layout:
        """What the layer's change looks like."""
        match self.part:
            case LoraWeights():
                return Layout((self.part.b.shape[0], self.part.a.shape[1]))
            case Ia3Weights():
                return Layout(tuple(self.part.factors.shape), self.part.side)
            case Entrywise():
                return self.part.layout

    def change(self, dtype: torch.dtype) -> Tensor:
        """Return the weighted entries."""
        match self.part:
            case LoraWeights():
                product = self.part.b.detach().to(dtype) @ self.part.a.detach().to(dtype)
                return (self.weight * self.part.scale) * product
            case Ia3Weights():
                return self.weight * (self.part.factors.detach().to(dtype) - 1)
            case Entrywise():
                return self.weight * self.part.change(dtype)


def entries(terms: Iterable[Term], layout: Layout, dtype: torch.dtype) -> Tensor:
    """Return a sum's entries: a matrix, or IA3's shifts l - 1."""
    total = torch.zeros(layout.shape, dtype=dtype)
    for term in terms:
        change = term.change(dtype)
        total = total.to(change.device) + change
    return total


@dataclass(frozen=True, eq=False)
class Delta:
    """A change of a base: module path -> the weighted parts of a sum. Made by `delta_of`.

    d1 + d2, d1 - d2, 0.5 * d and -d are changes again; nothing is multiplied out.
    kind: `lora` or `ia3`. base: what it was made for; None = not known.

    Raises IncompatibleExpert when parts, kinds or bases do not fit together, RoutingError for weights not finite.

    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> law, code = (delta_of_adapter(random_adapter(pico_base(), seed)) for seed in (0, 1))
    >>> both = 0.5 * (law + code) - 0.5 * code
    >>> [term.weight for term in next(iter(both.layers.values()))]
    [0.5]
    """

    kind: str
    layers: Mapping[str, tuple[Term, ...]]
    base: Fingerprint | None = None

    def __post_init__(self) -> None:
        """Check that each layer's parts have one layout."""
        for path, terms in self.layers.items():
            first = terms[0].layout
            for term in terms:
                if term.layout != first:
                    raise IncompatibleExpert(
                        f"{path}: one expert changes {first.words}, another {term.layout.words}; they are not of one "
                        "base, or rescale different sides of the layer."
                    )

    @property
    def rank(self) -> int:
        """The largest sum of ranks at a layer; 0 for IA3."""
        return max((total_rank(terms) for terms in self.layers.values()), default=0)

    def layout(self, path: str) -> Layout:
        """Return what the change of a layer looks like."""
        return self.layers[path][0].layout

    def entries(self, path: str, dtype: torch.dtype = torch.float32) -> Tensor:
        """Return the change of a layer multiplied out: a matrix, or IA3's shifts l - 1."""
        return entries(self.layers[path], self.layout(path), dtype)

    def __add__(self, other: "Delta") -> "Delta":
        """Return the sum; a part that occurs in both has the sum of its weights, and none where that is zero."""
        if not isinstance(other, Delta):
            return NotImplemented
        check_together((self, other))
        paths = dict.fromkeys((*self.layers, *other.layers))
        sums = {path: _gathered((*self.layers.get(path, ()), *other.layers.get(path, ()))) for path in paths}
        return Delta(self.kind, {path: terms for path, terms in sums.items() if terms}, self.base or other.base)

    def __sub__(self, other: "Delta") -> "Delta":
        """Return the difference."""
        return self + -other

    def __neg__(self) -> "Delta":
        """Return the opposite change: -B A; factors 2 - l."""
        return -1.0 * self

    def __mul__(self, weight: float | int) -> "Delta":
        """Return the change times a number: w B A; factors 1 + w (l - 1)."""
        if not isinstance(weight, int | float):
            return NotImplemented
        weight = float(weight)
        check_finite(weight)
        scaled = {
            path: tuple(Term(weight * term.weight, term.part) for term in terms) for path, terms in self.layers.items()
        }
        return Delta(self.kind, scaled if weight else {}, self.base)

    __rmul__ = __mul__


def _gathered(terms: Sequence[Term]) -> tuple[Term, ...]:
    weights: dict[int, float] = {}
    parts = {id(term.part): term.part for term in terms}
    for term in terms:
        weights[id(term.part)] = weights.get(id(term.part), 0.0) + term.weight
    return tuple(Term(weights[key], part) for key, part in parts.items() if weights[key])


def total_rank(terms: Iterable[Term]) -> int:
    """Return the ranks of a sum's parts together; 0 for IA3."""
    return sum(term.part.rank for term in terms if not isinstance(term.part, Ia3Weights))


def check_finite(*weights: float) -> None:
    """Raise RoutingError for a weight that is NaN or infinite."""
    if not all(map(math.isfinite, weights)):
        raise RoutingError(
            f"weights of experts are finite numbers, got {', '.join(f'{each:g}' for each in weights)}; weigh less."
        )


def check_together(deltas: Sequence[Delta], names: Sequence[str] = ()) -> None:
    """Raise IncompatibleExpert unless there are changes and all are of one kind and one base; `names` for messages."""
    if not deltas:
        raise IncompatibleExpert("nothing was chosen to be merged; name at least one expert.")
    bases = [delta.base and delta.base.short for delta in deltas]
    _check_alike("kind", [delta.kind for delta in deltas], names, "Merge those of one kind, or use mix or ensemble.")
    _check_alike("base", bases, names, "Merge those of one base, and train the others again on it.")


def _check_alike(what: str, found: Sequence[str | None], names: Sequence[str], way_out: str) -> None:
    """Raise IncompatibleExpert where more than one is found; None = not known."""
    known = sorted({each for each in found if each})
    if len(known) > 1:
        owners = {each: [name for name, own in zip(names, found, strict=False) if own == each] for each in known}
        told = " and ".join(f"{each} ({', '.join(own)})" if own else each for each, own in owners.items())
        raise IncompatibleExpert(f"experts of one {what} are merged with each other, these are of {told}. {way_out}")


def delta_of_adapter(adapter: Adapter, *, base: Fingerprint | None = None, name: str = "this expert") -> Delta:
    """Return an adapter as a change of its base; `name` is for messages.

    Raises IncompatibleExpert for a bottleneck, an exchanged block or a prefix: they are no change of any numbers.

    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> delta_of_adapter(random_adapter(pico_base(), rank=4)).rank
    4
    """
    kinds = sorted({part.kind for part in adapter.values()})
    layers: dict[str, tuple[Term, ...]] = {}
    for path, part in adapter.items():
        if not isinstance(part, LoraWeights | Ia3Weights):
            raise IncompatibleExpert(
                f"{name} is of kind {part.kind!r}, which is no change of the base's numbers, so it cannot be added, "
                f"scaled or negated; {' and '.join(KINDS)} can. Use mix or ensemble."
            )
        layers[path] = (Term(1.0, part),)
    if len(kinds) > 1:
        raise IncompatibleExpert(f"{name} has parts of {kinds}; an expert is of one kind.")
    return Delta(kinds[0] if kinds else KINDS[0], layers, base)
