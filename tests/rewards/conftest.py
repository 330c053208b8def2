"""Small reward models on toy bases, made once for all tests."""

import random
from dataclasses import replace

import pytest
import torch

from collegium.data.preferences import Pair, PairCorpus, PairDomain
from collegium.library import Library
from collegium.rewards import DESIGNS, DesignOptions, Making, RewardConfig, open_reward
from collegium.testing.pico import pico_base

QUICK = RewardConfig(text_tokens=48, passes=2.0, rank=4, learning_rate=3e-3, batch=8, layers="top:1")
"""Enough to move every weight; too little to learn."""


def domain_of(name, word, *, count=60, against="xyz"):
    """Pairs whose better answer holds a word; the prompt begins with the domain's name."""
    draw = random.Random(name)
    pairs = []
    for _ in range(count):
        good, bad = ("".join(draw.choice("abcdefgh ") for _ in range(12)) for _ in range(2))
        place, other = draw.randrange(12), draw.choice(against.replace(word, ""))
        pairs.append(
            Pair(
                f"{name} {draw.randrange(10**6)}?",
                good[:place] + word + good[place:],
                bad[:place] + other + bad[place:],
                margin=float(draw.randrange(3)),
            )
        )
    return PairDomain(name, tuple(pairs), kind="synthetic")


def corpus_of(*names):
    return PairCorpus(tuple(domain_of(name, "xyz"[place % 3]) for place, name in enumerate(names)))


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
        config = replace(QUICK, passes=1.0) if design == "rodos" else QUICK
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
