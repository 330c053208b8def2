"""A tiny library without a base model."""

import os

import pytest
import torch
from tiny_library import BASE, make_expert

from collegium.library import Library


@pytest.fixture(autouse=True)
def _no_flush(monkeypatch):
    """Flush nothing: a killed process loses nothing that the kernel has; the order of flushes has its own test."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "library"


@pytest.fixture
def library(path):
    """A library with the experts `law` and `code` and a router fitted for both."""
    made = Library(path, base=BASE)
    made.add(make_expert("law", 1))
    made.add(make_expert("code", 2))
    made.save_router("prior", {"rows": torch.eye(2)}, {"experts": ["code", "law"]})
    return made
