"""A shelf, texts, and a tokenizer."""

import pytest
from domain_texts import OWN, Texts, write

from collegium.testing.shelf import MemoryShelf
from collegium.testing.tiny import LetterTokenizer


@pytest.fixture(scope="session")
def texts() -> Texts:
    parts = [{name: write(name, texts=8, words=200, seed=seed) for name in OWN} for seed in range(3)]
    return Texts(*parts)


@pytest.fixture
def shelf() -> MemoryShelf:
    return MemoryShelf()


@pytest.fixture(scope="session")
def letters() -> LetterTokenizer:
    return LetterTokenizer()
