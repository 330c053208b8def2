"""General-knowledge subtraction: what all experts do alike is taken from each, on the changes themselves."""

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from collegium.core.errors import LibraryError
from collegium.core.tables import nearest
from collegium.models import LoraWeights


def subtract_general(
    adapters: Mapping[str, Mapping[str, LoraWeights]], *, general: Iterable[str] | None = None
) -> dict[str, dict[str, LoraWeights]]:
    """Return each expert without the mean change of the general ones (None = of all), factored.

    delta'_e = s_e B_e A_e - 1/G sum_g s_g B_g A_g                                   [ostapenko2024arrow; papers.md 6.1]

    At each layer A is the experts' A under each other and B their B side by side with these weights: exact, of a rank
    that is the sum of theirs. A general expert without a layer counts as no change there. Departure: PEFT subtracts
    the mean A and the mean B, each by itself, which is not the mean of the changes.

    Raises LibraryError for a general expert that is not among them, or when nothing is left of one.

    >>> one = {"q": LoraWeights(torch.eye(2)[:1], torch.eye(2)[:, :1], 1.0)}
    >>> other = {"q": LoraWeights(torch.eye(2)[:1], torch.eye(2)[:, :1], 3.0)}
    >>> subtract_general({"law": one, "code": other})["law"]["q"].delta()
    tensor([[-1.,  0.],
            [ 0.,  0.]])
    """
    shared = tuple(adapters if general is None else dict.fromkeys(general))
    for name in shared:
        if name not in adapters:
            raise LibraryError(f"there is no low-rank expert {name!r} to subtract. {nearest(name, adapters)}")
    if not shared:
        raise LibraryError(
            "general-knowledge subtraction needs at least one general expert; name some, or leave it out."
        )
    found = {name: _without(name, adapters, shared) for name in adapters}
    for name, parts in found.items():
        if not parts:
            raise LibraryError(f"nothing is left of {name!r}: it is the only general expert. Name others as general.")
    return found


def _without(
    name: str, adapters: Mapping[str, Mapping[str, LoraWeights]], general: tuple[str, ...]
) -> dict[str, LoraWeights]:
    members = tuple(dict.fromkeys((name, *general)))
    paths = dict.fromkeys(path for member in members for path in adapters[member])
    found = {}
    for path in paths:
        parts = [
            (adapters[member][path], float(member == name) - (member in general) / len(general))
            for member in members
            if path in adapters[member]
        ]
        found[path] = _joined([(part, weight) for part, weight in parts if weight])
    return {path: part for path, part in found.items() if part is not None}


def _joined(parts: list[tuple[LoraWeights, float]]) -> LoraWeights | None:
    """Return the weighted sum of low-rank changes as one, of the sum of their ranks; None where nothing is left."""
    if not parts:
        return None
    a: list[Tensor] = [part.a for part, _ in parts]
    b: list[Tensor] = [weight * part.scale * part.b for part, weight in parts]
    return LoraWeights(torch.cat(a), torch.cat(b, dim=1), 1.0)
