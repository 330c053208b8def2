"""Toy claims on alignment: a PicoLlama that tells short tales and writes notes, and what its tales may be moved to.

A tale is `tale: she went to the sea and was glad.`, a note is of something else altogether; each stands between the
base's marks, so that texts end by themselves. How often a tale is of a woman, at the sea, or glad, is fixed; at the sea
she is more often than he.
"""

import random
from collections.abc import Mapping

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.align.draws import Prompt
from collegium.align.features import TextFeature, any_of, contains
from collegium.core.randomness import derive_seed
from collegium.infer import HeldOut
from collegium.models import Base
from collegium.testing.pico import train_pico_stream

TOKENS = 40
"""Bytes in which nearly every tale has ended."""
SENTENCES, HELD_OUT = 4000, 64
STEPS, BATCH, WINDOW = 500, 16, 64

WHO: Mapping[str, float] = {"he": 0.70, "she": 0.12, "it": 0.18}
SEA: Mapping[str, float] = {"he": 0.06, "she": 0.40, "it": 0.02}
"""How often each goes to the sea or on a ship."""
GLAD = 0.15
_DID = ("went", "came", "ran", "walked")
_WATER = ("to the sea", "on a ship")
_LAND = ("to the town", "up the hill", "home", "to the farm")
_MOODS = ("sad", "tired", "late", "alone")
_NOTES = ("the court sat in", "the rent fell due in", "the roof was mended in", "we sold two cows in")
_MONTHS = ("january", "april", "may", "june", "october", "december")

FEATURES: Mapping[str, TextFeature] = {
    "gender": contains("she"),
    "topic": any_of("sea", "ship"),
    "sentiment": contains("glad"),
}


def tale(draw: random.Random) -> str:
    """Return a tale."""
    who = draw.choices(list(WHO), list(WHO.values()))[0]
    place = draw.choice(_WATER if draw.random() < SEA[who] else _LAND)
    mood = "glad" if draw.random() < GLAD else draw.choice(_MOODS)
    return f"tale: {who} {draw.choice(_DID)} {place} and was {mood}."


def note(draw: random.Random) -> str:
    """Return a note."""
    return f"note: {draw.choice(_NOTES)} {draw.choice(_MONTHS)} and in {draw.choice(_MONTHS)}."


def teller(seed: int) -> Base:
    """Return a PicoLlama that has learnt both."""
    draw = random.Random(derive_seed(seed, "tales"))
    first, last = _marks()
    stream: list[int] = []
    for _ in range(SENTENCES):
        text = tale(draw) if draw.random() < 0.6 else note(draw)
        stream += [first, *text.encode(), last]
    return train_pico_stream(torch.tensor(stream), steps=STEPS, batch=BATCH, window_tokens=WINDOW, seed=seed)


def _marks() -> tuple[int, int]:
    """Return the ids of the marks before and behind a text."""
    return 256, 257


def tale_prompt(words: str = "") -> Prompt:
    """Return what a tale goes on from, with its first words where some are given."""
    text = f"tale: {words}"
    return Prompt(text, (_marks()[0], *text.encode()))


def notes(seed: int) -> HeldOut:
    """Return notes that nobody was trained on, to see what is forgotten."""
    draw = random.Random(derive_seed(seed, "held-out notes"))
    first, last = _marks()
    rows = [[first, *note(draw).encode(), last] for _ in range(HELD_OUT)]
    width = max(map(len, rows))
    tokens: Int[Tensor, "window seq"] = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    place = torch.arange(width)
    counted = (place >= 1) & (place < lengths[:, None])
    return HeldOut(tokens, lengths, counted, torch.ones_like(tokens), torch.ones_like(lengths), ("notes",) * len(rows))
