"""Whether an adapter's parts are sound in themselves and belong where they say they do."""

from collections.abc import Callable, Mapping
from typing import Any

from collegium.core.errors import IncompatibleExpert
from collegium.models import Adapter, BottleneckWeights, FfnWeights, Ia3Weights, LoraWeights, PrefixWeights, Site
from collegium.models.sites import check_part

Sites = Mapping[str, Site]
"""Module path in a base -> what is there, as `Base.sites` gives it."""


def check_parts(adapter: Adapter, *, where: str) -> None:
    """Raise IncompatibleExpert when a part's tensors do not go together, or are no floating-point numbers."""
    for path, part in adapter.items():
        for name, tensor in part.tensors.items():
            if not tensor.is_floating_point():
                raise IncompatibleExpert(
                    f"{where}: {path}: {name!r} holds {tensor.dtype}; weights are floating-point numbers."
                )
        if not SOUND[part.kind](part):
            shapes = {name: tuple(tensor.shape) for name, tensor in part.tensors.items()}
            raise IncompatibleExpert(f"{where}: {path}: shapes {shapes} do not make a part of kind {part.kind!r}.")


def check_sites(adapter: Adapter, sites: Sites, *, where: str) -> None:
    """Raise IncompatibleExpert when an adapter names a place the base lacks, or one of another kind or shape."""
    unknown = sorted(path for path in adapter if path not in sites)
    if unknown:
        raise IncompatibleExpert(
            f"{where}: {len(unknown)} of its places are no linear layers, feed-forward blocks or attention layers in "
            f"this base's blocks, the first is {unknown[0]!r}; one of this base is {next(iter(sites), 'none')!r}."
        )
    for path, part in adapter.items():
        check_part(part, sites[path], where=f"{where}: {path}")


def _lora(part: LoraWeights) -> bool:
    return part.a.dim() == part.b.dim() == 2 and part.a.shape[0] == part.b.shape[1] > 0


def _ia3(part: Ia3Weights) -> bool:
    return part.factors.dim() == 1 and part.side in ("input", "output")


def _bottleneck(part: BottleneckWeights) -> bool:
    if part.down.dim() != 2:
        return False
    rank, hidden = part.down.shape
    shapes = (part.down_bias.shape, part.up.shape, part.up_bias.shape)
    return rank > 0 and shapes == ((rank,), (hidden, rank), (hidden,))


def _ffn(part: FfnWeights) -> bool:
    return bool(part.tensors)


def _prefix(part: PrefixWeights) -> bool:
    return part.keys.dim() == 3 and part.keys.shape == part.values.shape and part.keys.shape[1] > 0


SOUND: Mapping[str, Callable[[Any], bool]] = {
    "lora": _lora,
    "ia3": _ia3,
    "bottleneck": _bottleneck,
    "ffn": _ffn,
    "prefix": _prefix,
}
"""Kind -> whether the shapes of a part's tensors go together."""
