"""Merged experts: a row is run through one expert whose parameters are the weighted sum of others'.

theta = sum_i w_i theta_i,  h' = h + A_theta(h)    [L2R-merge]

No row has matrices of its own: what is averaged is the first products, before a nonlinearity where there is one, and
every expert's second product is of the average. theta of a low-rank change is (A, s B), of a bottleneck
(D, d, s U, s u), the scale s folded into the second half; of a prefix its keys and values. A rescaling is linear in
its parameters, so that merged and mixed are the same. The weights of `base`, and of an expert that leaves a place as
it is, are weights of zeros. An exchanged block is not merged: each row would need a copy of it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace

import torch

from collegium.core.errors import RoutingError
from collegium.models.parts import BottleneckWeights, FfnWeights, LoraWeights, Part, PrefixWeights
from collegium.models.rows import Rows
from collegium.models.slots.slabs import LowRank

_MIX = "Mix what they say (`merged=False`), or merge others."


def check_merged(path: str, parts: Mapping[str, Part], rows: Rows) -> None:
    """Raise RoutingError where experts that rows merge cannot be one at a place."""
    for cast in rows.casts:
        names = [name for name in cast[: rows.merged] if name]
        low_rank, prefixes = {}, {}
        for name in names:
            part = parts.get(name)
            if isinstance(part, FfnWeights):
                raise RoutingError(
                    f"{name!r} puts a feed-forward block in place of {path!r}; averaging whole blocks for each row "
                    f"would cost a copy of the block each. {_MIX}"
                )
            if isinstance(part, LoraWeights | BottleneckWeights):
                low_rank[name] = part.rank
            prefixes[name] = part.keys.shape[1] if isinstance(part, PrefixWeights) else 0
        _check_equal(path, low_rank, "rank")
        _check_equal(path, prefixes, "prefix length")


def _check_equal(path: str, sizes: Mapping[str, int], what: str) -> None:
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{name!r} has {size}" for name, size in sizes.items())
        raise RoutingError(f"experts are merged by parameters of equal {what}; at {path!r} {told}. {_MIX}")


def filled(cast: Sequence[str], own: Mapping[str, LowRank]) -> list[LowRank]:
    """Return the parts of a cast, with zeros for those of its experts that have none."""
    first = next(own[name] for name in cast if name in own)
    nothing = replace(first, **{name: torch.zeros_like(tensor) for name, tensor in first.tensors.items()})
    return [own.get(name, nothing) for name in cast]
