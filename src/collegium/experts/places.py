"""Whether an adapter's parts are sound in themselves and belong where they say they do."""

from collections.abc import Callable, Mapping

from torch import Tensor

from collegium.core.errors import IncompatibleExpert
from collegium.models import Adapter, Site
from collegium.models.sites import check_part

Sites = Mapping[str, Site]
"""Module path in a base -> what is there, as `Base.sites` gives it."""


def check_parts(adapter: Adapter, *, where: str) -> None:
    """Raise IncompatibleExpert when a part's tensors do not go together, or are no floating-point numbers."""
    for path, part in adapter.items():
        check_tensors(part.kind, {path: part.tensors}, where=where)


def check_tensors(kind: str, places: Mapping[str, Mapping[str, Tensor]], *, where: str) -> None:
    """Raise IncompatibleExpert when the tensors at a place (path -> name -> tensor) do not make a part of a kind."""
    for path, tensors in places.items():
        odd = sorted(name for name, tensor in tensors.items() if not tensor.is_floating_point())
        if odd:
            raise IncompatibleExpert(
                f"{where}: {path}: {odd[0]!r} holds {tensors[odd[0]].dtype}; weights are floating-point numbers."
            )
        shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
        if not SOUND[kind](shapes):
            raise IncompatibleExpert(f"{where}: {path}: shapes {shapes} do not make a part of kind {kind!r}.")


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


Shapes = Mapping[str, tuple[int, ...]]


def _lora(shapes: Shapes) -> bool:
    match shapes:
        case {"a": (rank, _), "b": (_, other)} if rank == other > 0:
            return len(shapes) == 2
    return False


def _ia3(shapes: Shapes) -> bool:
    match shapes:
        case {"factors": (_,)}:
            return len(shapes) == 1
    return False


def _bottleneck(shapes: Shapes) -> bool:
    match shapes:
        case {"down": (rank, inputs)} if rank > 0:
            return shapes == {"down": (rank, inputs), "down_bias": (rank,), "up": (inputs, rank), "up_bias": (inputs,)}
    return False


def _ffn(shapes: Shapes) -> bool:
    return bool(shapes)


def _prefix(shapes: Shapes) -> bool:
    match shapes:
        case {"keys": (heads, length, size)} if length > 0:
            return shapes == {"keys": (heads, length, size), "values": (heads, length, size)}
    return False


SOUND: Mapping[str, Callable[[Shapes], bool]] = {
    "lora": _lora,
    "ia3": _ia3,
    "bottleneck": _bottleneck,
    "ffn": _ffn,
    "prefix": _prefix,
}
"""Kind -> whether tensors of these names and shapes make a part."""
