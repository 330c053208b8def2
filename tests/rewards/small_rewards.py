"""Pairs that obey a simple rule, and settings under which judges of them are made in a second."""

import random

from collegium.data.preferences import Pair, PairCorpus, PairDomain
from collegium.rewards import RewardConfig

QUICK = RewardConfig(text_tokens=48, passes=4.0, rank=4, learning_rate=1e-2, batch=8, layers="top:1")
"""Enough to learn something in a second."""


def domain_of(name, word, *, count=60, against="qrs"):
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
