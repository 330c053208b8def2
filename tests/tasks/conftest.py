"""A small stream on a toy that speaks and on one that only reads, shared by the session."""

import pytest
import torch
from small_streams import QUICK

from collegium.data.synthetic_tasks import synthetic_tasks
from collegium.models import Base
from collegium.tasks.continual import Scene, make_pool
from collegium.testing.pico import byte_tokenizer, pico_base, random_classifier


@pytest.fixture(scope="session")
def tasks():
    return synthetic_tasks((0, 0, 1), rows=120)


def reader() -> Base:
    """Return a random encoder of bytes."""
    tokenizer = byte_tokenizer()
    tokenizer.cls_token, tokenizer.sep_token = "<|im_start|>", "<|im_end|>"
    return Base.from_model(random_classifier("bert"), tokenizer, name="reader")


@pytest.fixture(scope="session")
def bases():
    torch.set_num_threads(1)
    return {"words": pico_base(), "heads": reader()}


@pytest.fixture(scope="session")
def pools(bases, tasks):
    return {readout: make_pool(base, tasks, QUICK) for readout, base in bases.items()}


@pytest.fixture(params=["words", "heads"])
def scene(request, bases, pools):
    """A scene in which nothing has been learnt yet."""
    pool, lessons = pools[request.param]
    return Scene(bases[request.param], QUICK, pool, lessons, QUICK.rates[0])


@pytest.fixture
def words(bases, pools):
    """The same on the toy that speaks alone."""
    pool, lessons = pools["words"]
    return Scene(bases["words"], QUICK, pool, lessons, QUICK.rates[0])
