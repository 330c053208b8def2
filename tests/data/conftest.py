"""Tokenizers and corpora for the tests of data."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from collegium.data import Document
from collegium.testing.pico import byte_tokenizer


class PlainBytes:
    """A tokenizer of bytes with nothing but encode and decode."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return bytes(token_ids).decode(errors="replace")


class OpeningBytes(PlainBytes):
    """The same with a begin-of-text token, as Gemma and Llama have one."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        return [256] * add_special_tokens + list(text.encode())

    def decode(self, token_ids: Sequence[int], *, skip_special_tokens: bool = False) -> str:
        return super().decode([token for token in token_ids if token < 256])


@pytest.fixture
def plain_bytes() -> PlainBytes:
    return PlainBytes()


@pytest.fixture
def opening_bytes() -> OpeningBytes:
    return OpeningBytes()


@pytest.fixture(scope="session")
def chat_bytes() -> Any:
    return byte_tokenizer()


@pytest.fixture
def texts() -> Callable[..., tuple[Document, ...]]:
    def make(*lengths: int) -> tuple[Document, ...]:
        return tuple(Document(text=f"{n:03d}" + "abcdefg "[n % 8] * (length - 3)) for n, length in enumerate(lengths))

    return make


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Write files below a folder of texts; return the folder."""

    def make(files: dict[str, str | bytes]) -> Path:
        root = tmp_path / "texts"
        root.mkdir(exist_ok=True)
        for name, content in files.items():
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        return root

    return make
