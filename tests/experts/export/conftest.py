"""Experts whose ranks and scales differ from layer to layer, on tiny bases of several architectures."""

import pytest

from collegium.core.cards import ExpertCard
from collegium.experts import Expert, adapter_payload
from collegium.models import LoraWeights
from collegium.testing.pico import random_adapter


@pytest.fixture
def uneven():
    """Return a function that makes an uneven expert for a base."""

    def make(base, name="law", *, layers="all", seed=0):
        adapter = random_adapter(base, seed, rank=3, scale=2 / 3, layers=layers)
        for place, path in enumerate(sorted(adapter)[1::2]):
            rank, whole = 1 + place % 3, adapter[path]
            adapter[path] = LoraWeights(whole.a[:rank].clone(), whole.b[:, :rank].clone(), 0.25 + place / 7)
        return Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint), adapter_payload(base, adapter))

    return make


@pytest.fixture
def plain():
    """Return a function that makes an expert of one rank and one scale for a base."""

    def make(base, name="law", **settings):
        adapter = random_adapter(base, **settings)
        return Expert(ExpertCard(name=name, kind="lora", base=base.fingerprint), adapter_payload(base, adapter))

    return make
