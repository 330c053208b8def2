"""Texts of made-up domains, each with words of its own."""

import pytest
import torch

from collegium.claims.small_setup import SmallSettings, SmallTexts
from collegium.core.randomness import generator
from collegium.data import Document, Domain

NAMES = ("alpha", "beta", "gamma", "delta")


def made_up(name: str, consonants: str, *, count: int = 40) -> Domain:
    words = [f"{first}{vowel}{second}" for first in consonants for vowel in "aeou" for second in consonants]
    drawing = generator(0, "made-up texts", name)
    documents = []
    for _ in range(count):
        picked = torch.randint(len(words), (60,), generator=drawing).tolist()
        documents.append(Document(text=" ".join(words[each] for each in picked)))
    return Domain(name, tuple(documents))


@pytest.fixture(scope="session")
def pico_settings() -> SmallSettings:
    return SmallSettings(
        base="pico",
        dtype="float32",
        rank=2,
        layers="top:1",
        steps=4,
        rate_steps=2,
        rates=(1e-3, 1e-2),
        batch=2,
        window=48,
        context=8,
        pool=24,
        passage=96,
        chunk=36,
        eval_tokens=192,
        dev_tokens=144,
    )


@pytest.fixture(scope="session")
def pico_texts() -> SmallTexts:
    seen = tuple(made_up(name, letters) for name, letters in zip(NAMES, ("bd", "fg", "kl", "mn"), strict=True))
    return SmallTexts(seen, (made_up("omega", "bm"), made_up("psi", "rs")))
