"""The base's linear layers, kept with the library: shapes are compared where the base itself is not at hand."""

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import Fingerprint
from collegium.library.shelves import read_derived

Sites = Mapping[str, tuple[int, int]]
"""Module path in a base -> (inputs, outputs), as `Base.linear_sites` gives it."""


def sites_key(base: Fingerprint) -> dict[str, Any]:
    """Return the key under which a base's layers are kept among the derived values."""
    return {"kind": "linear sites", "base": asdict(base)}


def sites_tensors(sites: Sites) -> dict[str, Tensor]:
    """Return a base's layers as they are kept: path -> inputs and outputs."""
    return {path: torch.tensor(shape) for path, shape in sites.items()}


def read_sites(root: Path, base: Fingerprint) -> Sites | None:
    """Return the layers kept with a library; None when they never were, or must be noted again."""
    found = read_derived(root, sites_key(base)) or {}
    if not all(each.dtype == torch.int64 and each.shape == (2,) for each in found.values()):
        return None
    return {path: (int(each[0]), int(each[1])) for path, each in found.items()} or None
