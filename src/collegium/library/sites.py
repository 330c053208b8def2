"""The base's places for experts, kept with the library: shapes are compared where the base itself is not at hand."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import Fingerprint
from collegium.experts.places import Sites
from collegium.library.shelves import read_derived
from collegium.models import Site

_WHAT = ("linear", "feed_forward", "attention")


def sites_key(base: Fingerprint) -> dict[str, Any]:
    """Return the key under which a base's places are kept among the derived values."""
    return {"kind": "sites", "base": asdict(base)}


def sites_tensors(sites: Sites) -> dict[str, Tensor]:
    """Return a base's places as they are kept.

    PATH -> what is there, its block and its shape; `PATH:NAME` -> the shape of a feed-forward block's parameter.
    """
    places = {path: torch.tensor([_WHAT.index(site.what), site.block, *site.shape]) for path, site in sites.items()}
    inside = {
        f"{path}:{name}": torch.tensor(shape, dtype=torch.int64)
        for path, site in sites.items()
        for name, shape in (site.tensors or {}).items()
    }
    return places | inside


def read_sites(root: Path, base: Fingerprint) -> Sites | None:
    """Return the places kept with a library; None when they never were, or must be noted again."""
    kept = read_derived(root, sites_key(base)) or {}
    if not all(each.dtype == torch.int64 and each.dim() == 1 for each in kept.values()):
        return None
    inside: dict[str, dict[str, tuple[int, ...]]] = {}
    for key in [key for key in kept if ":" in key]:
        path, _, name = key.partition(":")
        inside.setdefault(path, {})[name] = tuple(kept.pop(key).tolist())
    if not all(len(each) == 4 and 0 <= int(each[0]) < len(_WHAT) for each in kept.values()) or inside.keys() - kept:
        return None
    return {path: _site(each.tolist(), inside.get(path)) for path, each in kept.items()} or None


def _site(numbers: list[int], tensors: dict[str, tuple[int, ...]] | None) -> Site:
    what, block, first, second = numbers
    kind = _WHAT[what]
    return Site(kind, block, (first, second), tensors if kind != "feed_forward" else tensors or {})
