"""Libraries of every sort, in which mistakes of composing are made."""

import shutil
from types import MappingProxyType

import torch

from collegium.library import Library
from collegium.routers.gates import grow_phatgoose, keep_xlora
from collegium.routers.gates.xlora import fresh_head
from collegium.testing.pico import random_expert

DELTALESS = ("prefix", "bottleneck", "ffn")
"""Kinds of experts that are no change of the base's numbers."""


def filled(path, base, reference, *, seed=0, kinds=MappingProxyType({"law": "lora", "code": "lora"})):
    library = Library(path, base=base, base_reference=reference)
    for place, (name, kind) in enumerate(kinds.items()):
        library.add(random_expert(base, seed + place, kind=kind, name=name))
    return library


def with_gates(library, base):
    """Keep gates that are fitted for law and code: PHATGOOSE's, and a head of open weights."""
    for seed, name in enumerate(("law", "code")):
        draw = torch.Generator().manual_seed(seed)
        vectors = {path: torch.randn(inputs, generator=draw) for path, (inputs, _) in base.linear_sites().items()}
        grow_phatgoose(library, expert=name, vectors=vectors, base=base.fingerprint.short)
    head = fresh_head(base, 2, width=4, scale="sigmoid", seed=0)
    keep_xlora(library, head=head, experts=("law", "code"), base=base.fingerprint.short)


def fill_world(root, folders, bases):
    """Put libraries of every sort side by side, and return where."""
    base, reference = bases["pico"], folders["pico"]
    with_gates(filled(root / "college", base, reference), base)
    kinds = {"law": "lora", "the-ia3": "ia3", **{f"the-{kind}": kind for kind in DELTALESS}}
    filled(root / "kinds", base, reference, kinds=kinds)
    filled(root / "deltaless", base, reference, kinds={"the-prefix": "prefix"})
    filled(root / "empty", base, reference, kinds={})
    filled(root / "foreign", bases["other"], folders["other"])
    filled(root / "twins", base, reference, seed=5)
    filled(root / "grown", base, reference).add(random_expert(base, 9, name="new"))
    for name in ("foreign", "twins", "grown"):
        shutil.copytree(root / "college" / "routers", root / name / "routers")
    return root
