"""Fixtures that every folder of tests shares: no network, fixed seeds, a cache of their own, one thread."""

import gc
import os
from collections.abc import Iterator

import hypothesis
import pytest
import pytest_socket
import torch

import type_checks  # isort: skip

type_checks.install()  # before anything of the package is imported

from collegium.models import Base  # noqa: E402

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when huggingface_hub is imported

hypothesis.settings.register_profile("collegium", deadline=None, derandomize=True, max_examples=25)
hypothesis.settings.load_profile("collegium")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Cut the network off, for every test that is not marked as needing it; check types anew."""
    type_checks.SPARING.next_test()
    if item.get_closest_marker("network") is None:
        pytest_socket.disable_socket(allow_unix_socket=True)


def pytest_runtest_teardown() -> None:
    pytest_socket.enable_socket()


@pytest.fixture(scope="session", autouse=True)
def _surroundings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the user's cache untouched and sums in one order."""
    patch = pytest.MonkeyPatch()
    patch.setenv("COLLEGIUM_CACHE", str(tmp_path_factory.mktemp("cache")))
    torch.set_num_threads(1)
    yield
    patch.undo()


@pytest.fixture(scope="module", autouse=True)
def _settled() -> None:
    """Let garbage collections pass over what was imported: they would read a million objects each time."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _fresh() -> None:
    """Undo what an earlier test drew, or a command's --threads set."""
    torch.manual_seed(0)
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def _pico_once() -> Base:
    from collegium.testing.pico import train_pico

    return train_pico([_PICO_TEXT], steps=60)


@pytest.fixture
def pico(_pico_once: Base) -> Iterator[Base]:
    """A small trained byte-level base, shared by the session; experts a test attaches are detached after it."""
    before = set(_pico_once.attached)
    yield _pico_once
    for name in set(_pico_once.attached) - before:
        _pico_once.detach(name)


_PICO_TEXT = """The court finds that the tenant owed rent from the first of May, and that notice was given in writing.
def total(rows):
    return sum(row.price for row in rows if row.price is not None)
To be, or not to be, that is the question; whether 'tis nobler in the mind to suffer.
Mr. Speaker, the state of our union is strong, and our people are at work again.
"""
