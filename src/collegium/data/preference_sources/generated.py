"""A program of its own: questions of `reasoning-gym`, each with its right answer and a wrong one, as JSON on stdout.

    python generated.py WHEEL SEED COUNT

It imports nothing of Collegium. It reads the wheel where it lies and imports the modules of the chosen generators
alone: the package's own start imports all of its hundred generators and the dozen packages they need.
"""

import importlib
import json
import random
import string
import sys
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

GENERATORS = {
    "basic_arithmetic": "arithmetic.basic_arithmetic",
    "calendar_arithmetic": "arithmetic.calendar_arithmetic",
    "chain_sum": "arithmetic.chain_sum",
    "fraction_simplification": "arithmetic.fraction_simplification",
    "gcd": "arithmetic.gcd",
    "leg_counting": "arithmetic.leg_counting",
    "letter_counting": "algorithmic.letter_counting",
    "simple_equations": "algebra.simple_equations",
    "spell_backward": "algorithmic.spell_backward",
    "word_sequence_reversal": "algorithmic.word_sequence_reversal",
}
"""Generators with short questions in words, and the modules that hold them."""

LONGEST = 240
_WRONG = 0.5  # a wrong answer may earn a little for its form, never half
_TRIES = 20


def main(wheel: str, seed: int, count: int) -> None:
    """Print at most so many rows of every generator: generator, prompt, chosen, rejected."""
    create = _factory(wheel)
    rows = []
    for name in GENERATORS:
        made = create(name, seed=seed, size=count)
        rows += rows_of(name, [made[place] for place in range(count)], made.score_answer, random.Random(seed))
    json.dump(rows, sys.stdout)


def _factory(wheel: str) -> Callable[..., Any]:
    """Return the package's own `create_dataset`, which knows the chosen generators alone."""
    packages = {module.split(".")[0] for module in GENERATORS.values()}
    for name in ("reasoning_gym", *(f"reasoning_gym.{each}" for each in sorted(packages))):
        bare = types.ModuleType(name)  # in the place of the package, whose own start is not run
        bare.__path__ = [f"{wheel}/{name.replace('.', '/')}"]
        sys.modules[name] = bare
    for module in GENERATORS.values():
        importlib.import_module(f"reasoning_gym.{module}")
    return importlib.import_module("reasoning_gym.factory").create_dataset


def rows_of(
    name: str, items: Sequence[Mapping[str, Any]], score: Callable[..., float], generator: random.Random
) -> list[dict[str, str]]:
    """Return a row for each different short question to whose right answer there is a wrong one as long."""
    distinct = {str(item["question"]).strip(): item for item in items if len(str(item["question"]).strip()) <= LONGEST}
    others: dict[str, list[str]] = {}
    for item in distinct.values():
        others.setdefault(_shape(str(item["answer"])), []).append(str(item["answer"]))
    rows = []
    for question, item in distinct.items():
        right = str(item["answer"])
        wrong = wrong_answer(right, others[_shape(right)], partial(score, entry=item), generator)
        if wrong is not None and score(right, item) == 1.0:
            rows.append({"generator": name, "prompt": question, "chosen": right, "rejected": wrong})
    return rows


def _shape(answer: str) -> str:
    """Return what answers must share for one to be taken for the other: length, and where digits and signs stand."""
    has_digits = any(letter.isdigit() for letter in answer)
    return "".join("0" if letter.isdigit() or not has_digits else letter for letter in answer)


def wrong_answer(
    right: str, others: Sequence[str], score: Callable[[str], float], generator: random.Random
) -> str | None:
    """Return another question's answer or a disturbed one, by lot, that scores as wrong; None where there is none."""
    for _ in range(_TRIES):
        answer = generator.choice(others) if generator.random() < 0.5 else _disturbed(right, generator)
        if answer is not None and len(answer) == len(right) and score(answer) < _WRONG:
            return answer
    return None


def _disturbed(right: str, generator: random.Random) -> str | None:
    """Return the answer with two words swapped, or a digit changed, or two neighbouring small letters swapped."""
    words = right.split(", ")
    if len(words) > 1:
        first, second = sorted(generator.sample(range(len(words)), 2))
        words[first], words[second] = words[second], words[first]
        return ", ".join(words)
    digits = [place for place, letter in enumerate(right) if letter.isdigit()]
    if digits:
        place = generator.choice(digits)
        other = generator.choice([each for each in string.digits[1:] if each != right[place]])
        return right[:place] + other + right[place + 1 :]
    return next(_neighbours_swapped(right, generator), None) if right.islower() else None


def _neighbours_swapped(right: str, generator: random.Random) -> Iterator[str]:
    for place in generator.sample(range(len(right) - 1), max(len(right) - 1, 0)):
        swapped = right[:place] + right[place + 1] + right[place] + right[place + 2 :]
        if swapped != right:
            yield swapped


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]))
