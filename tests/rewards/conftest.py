"""Small reward models on toy bases, made once for all tests."""

from dataclasses import replace

import pytest
import torch
from small_rewards import QUICK, corpus_of

from collegium.library import Library
from collegium.rewards import DESIGNS, DesignOptions, Making, open_reward
from collegium.testing.pico import pico_base


@pytest.fixture(scope="session")
def corpus():
    return corpus_of("law", "code", "film")


@pytest.fixture(scope="session")
def base():
    torch.set_num_threads(1)
    return pico_base()


@pytest.fixture(scope="session")
def library(base, corpus, tmp_path_factory):
    """A library with a reward model of every design, named after it."""
    library = Library(tmp_path_factory.mktemp("rewards") / "library", base=base)
    for design in DESIGNS:
        config = replace(QUICK, passes=2.0, learning_rate=3e-3) if design == "rodos" else QUICK
        options = DesignOptions(threshold=0.0)
        record = DESIGNS[design].fit(Making(base, library, corpus, design, config=config, options=options))
        record.save(library, design)
    return library


@pytest.fixture
def model(base, library):
    return lambda name: open_reward(base, library, name)


@pytest.fixture(scope="session")
def samples(corpus):
    return [sample for domain in corpus for pair in domain.pairs[:6] for sample in pair.samples]
