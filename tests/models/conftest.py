"""One random base per architecture, with two attached experts of different rank and depth."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor

from collegium.models import Base
from collegium.testing.pico import ARCHITECTURES, random_adapter, random_base


@pytest.fixture(scope="session", params=ARCHITECTURES)
def bare(request: pytest.FixtureRequest) -> Base:
    """A random base that no test attaches anything to."""
    return random_base(request.param)


@pytest.fixture
def base(bare: Base) -> Iterator[Base]:
    """A base with `deep` on all layers and `top` on the last one alone."""
    bare.attach("deep", random_adapter(bare, 1, rank=4))
    bare.attach("top", random_adapter(bare, 2, rank=3, layers="top:1"))
    yield bare
    for name in bare.attached:
        bare.detach(name)


@pytest.fixture
def tokens() -> Tensor:
    return torch.randint(0, 256, (3, 20), generator=torch.Generator().manual_seed(1))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of this test alone."""
    monkeypatch.setenv("COLLEGIUM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
