"""What is derived from experts and kept: computed once for a content, found again by its hash, safe to delete."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.experts import AdapterPayload
from collegium.library.library import Library
from collegium.library.shelves import derived_path
from collegium.models import Adapter, LoraWeights, lora_parts
from collegium.ops.singular import top_right_singular

VERSION = 1
"""Part of every key: what an earlier Collegium derived by other rules is computed again."""

Prototypes = Mapping[str, Float[Tensor, " input"]]
"""Module path -> the direction in which an expert acts there."""


@runtime_checkable
class Derivations(Protocol):
    """Where derived tensors lie (a library's `derived/` folder)."""

    def expert_digest(self, name: str) -> str | None:
        """Return the checksum of an expert's payload, None when there is no such expert."""
        ...

    def derived(self, key: Any) -> dict[str, Tensor] | None:  # noqa: ANN401 - any value of JSON
        """Return what was kept under a key; None when it was not, or is damaged."""
        ...

    def keep_derived(self, key: Any, tensors: Mapping[str, Tensor]) -> None:  # noqa: ANN401 - any value of JSON
        """Keep tensors under a key; where nothing can be written, do nothing."""
        ...


def derive(
    kept: Derivations | None,
    key: Mapping[str, Any],
    compute: Callable[[], dict[str, Tensor]],
    *,
    fits: Callable[[Mapping[str, Tensor]], bool] = lambda tensors: True,
) -> dict[str, Tensor]:
    """Return the tensors kept under a key, or those computed now, which are then kept.

    key:  what they follow from: digests of experts, what is derived, settings. fits: whether what was kept can be
          used; what cannot, or is damaged, is computed again.
    """
    if kept is None:
        return compute()
    full = {**key, "version": VERSION}
    found = kept.derived(full)
    if found is None or not fits(found):
        found = compute()
        kept.keep_derived(full, found)
    return found


def prototypes(library: Library, names: Iterable[str] | None = None) -> dict[str, Prototypes]:
    """Return the prototypes of these experts (None = every language expert that has any), by name.

    Each expert's are kept by themselves: an expert that comes has one file written and touches no other (claim B3).
    """
    chosen = library.names(task="language") if names is None else tuple(names)
    found = {}
    for name in chosen:
        payload = library[name].payload
        if isinstance(payload, AdapterPayload) and payload.lora:
            found[name] = kept_prototypes(library, name, payload.adapter)
    return found


def kept_prototypes(kept: Derivations | None, name: str, adapter: Adapter) -> Prototypes:
    """Return one expert's prototypes, from where they are kept if they are."""
    digest = None if kept is None else kept.expert_digest(name)
    sizes = {path: part.shape[0] for path, part in lora_parts(adapter).items()}

    def fits(tensors: Mapping[str, Tensor]) -> bool:
        shapes = {path: tuple(each.shape) for path, each in tensors.items()}
        whole = all(bool(torch.isfinite(each).all()) for each in tensors.values())
        return whole and shapes == {path: (size,) for path, size in sizes.items()}

    if digest is None:
        return adapter_prototypes(adapter)
    return derive(kept, prototype_key(digest), lambda: adapter_prototypes(adapter), fits=fits)


def prototype_key(digest: str) -> dict[str, str]:
    """Return what an expert's prototypes are kept under."""
    return {"kind": "prototypes", "expert": digest}


def forget_prototypes(library: Library, digest: str) -> None:
    """Delete the prototypes kept for an expert's payload, so that nothing of one that was removed stays."""
    derived_path(library.path, {**prototype_key(digest), "version": VERSION}).unlink(missing_ok=True)


def adapter_prototypes(adapter: Adapter) -> dict[str, Float[Tensor, " input"]]:
    """Return module path -> top right singular vector of the low-rank change there  [ostapenko2024arrow].

    Layers of one shape and rank are computed together; of other parts than low-rank ones nothing is said.

    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> found = adapter_prototypes(random_adapter(pico_base(), targets=["q_proj"]))
    >>> found["model.layers.0.self_attn.q_proj"].shape
    torch.Size([64])
    """
    alike: dict[tuple[int, int, int], list[str]] = {}
    parts: Mapping[str, LoraWeights] = lora_parts(adapter)
    for path, part in parts.items():
        alike.setdefault((part.rank, *part.shape), []).append(path)
    found: dict[str, Tensor] = {}
    for paths in alike.values():
        a, b = (torch.stack([getattr(parts[path], side).float() for path in paths]) for side in ("a", "b"))
        found |= dict(zip(paths, top_right_singular(a, b).unbind(), strict=True))
    return {path: found[path].clone() for path in parts}
