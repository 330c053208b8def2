"""A pico base on disk, and three domains of synthetic text that a byte model can tell apart."""

from pathlib import Path

import pytest
from letters import WORDS, text

from collegium.testing.pico import train_pico


@pytest.fixture(scope="session")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("texts")
    for domain in WORDS:
        (root / domain).mkdir()
        for number in range(24):
            (root / domain / f"{number:02}.txt").write_text(text(domain, number))
    return root


@pytest.fixture(scope="session")
def pico_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    base = train_pico([text(domain, number) for domain in WORDS for number in range(2)], steps=60, batch=8)
    folder = tmp_path_factory.mktemp("bases") / "pico"
    base.model.save_pretrained(folder)
    base.tokenizer.save_pretrained(folder)
    return folder
