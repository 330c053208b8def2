"""Texts of four domains with words of their own and words they share."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch

from collegium.core.randomness import generator

SHARED = tuple(re.findall(r"\w+", "the a of and to in is it that was for on with as at"))
_OWN = """
law: court judge appeal statute clause defendant plaintiff tort contract liable verdict counsel
code: function return import class string integer loop array pointer compile debug module
drama: king queen thou sword castle crown ghost throne dagger fool exeunt enter
medicine: patient dose fever doctor vaccine liver surgery clinic symptom therapy nurse blood
"""
OWN = {name: tuple(words) for name, *words in (re.findall(r"\w+", line) for line in _OWN.strip().splitlines())}


def write(domain: str, *, texts: int, words: int, seed: int) -> list[str]:
    """Return texts of a domain, two words in five its own."""
    draw = generator(seed, domain)
    pools = (SHARED, OWN[domain])

    def word() -> str:
        pool = pools[int(torch.rand(1, generator=draw) < 0.4)]
        return pool[int(torch.randint(len(pool), (1,), generator=draw))]

    return [" ".join(word() for _ in range(words)) + "." for _ in range(texts)]


@dataclass(frozen=True)
class Texts:
    train: Mapping[str, list[str]]
    dev: Mapping[str, list[str]]
    test: Mapping[str, list[str]]
