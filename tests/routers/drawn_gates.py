"""Experts, fits and heads drawn at random, for gates."""

import dataclasses

import torch

from collegium.routers.gates import (
    grow_phatgoose,
    keep_xlora,
)
from collegium.routers.gates.xlora import fresh_head
from collegium.testing import MemoryShelf, random_adapter

NAMES = ("law", "code", "chat")


def experts(base):
    """Three experts of different ranks and layers, and a newcomer."""
    targets = {
        "law": ["q_proj", "up_proj"],
        "code": None,
        "chat": ["q_proj", "down_proj"],
        "new": ["v_proj", "up_proj"],
    }
    return {
        name: random_adapter(base, place, rank=2 + place, targets=each)
        for place, (name, each) in enumerate(targets.items())
    }


def vectors(adapter, seed):
    draw = torch.Generator().manual_seed(seed)
    return {path: torch.randn(part.shape[0], generator=draw) for path, part in adapter.items()}


def drawn_head(base, count, *, scale="softmax", seed=0):
    """A head that says something else at every token and layer."""
    head, draw = fresh_head(base, count, width=8, scale=scale, seed=seed), torch.Generator().manual_seed(seed)
    noise = {name: torch.randn(each.shape, generator=draw) for name, each in head.parameters.items()}
    return dataclasses.replace(head, parameters=noise)


def fitted(base, adapters, *, scale="softmax"):
    """A shelf with every fit, and the digests by which a stale one is told."""
    shelf = MemoryShelf()
    shelf.digests = {name: f"digest of {name}" for name in adapters}
    for place, name in enumerate(NAMES):
        grow_phatgoose(shelf, expert=name, vectors=vectors(adapters[name], place), base=base.fingerprint.short)
    keep_xlora(shelf, head=drawn_head(base, 3, scale=scale), experts=NAMES, base=base.fingerprint.short)
    return shelf
