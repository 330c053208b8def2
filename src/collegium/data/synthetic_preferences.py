"""Made-up preferences whose rules are known: two domains that contradict each other, and any few that do not.

All texts are short, so that a toy model of bytes learns them in seconds. The prompt tells the domain, and the answer
tells whether the domain's rule is obeyed; nothing else in a pair says which answer is preferred.
"""

import itertools
import random
from collections.abc import Callable, Iterator, Mapping

from collegium.core.errors import DataError
from collegium.data.preferences import Pair, PairCorpus, PairDomain

LONGEST = 60
"""No prompt with an answer has more characters."""

SYNTHETIC = "synthetic"

_THINGS: Mapping[str, tuple[str, ...]] = {
    "longer": ("river", "forest", "meadow", "valley", "harbour", "island", "garden", "glacier"),
    "shorter": ("engine", "radio", "printer", "camera", "turbine", "sensor", "magnet", "battery"),
}
_QUALITIES = ("old", "new", "red", "blue", "quiet", "small", "warm", "cold", "plain", "grand", "dark", "bright")
_PLACES = ("here", "there", "nearby", "abroad", "upstairs", "outside")
_FILLERS = ("it", "was", "so", "we", "saw", "how", "they", "go", "on", "and", "all", "is", "well", "then", "as", "one")
_SHORT, _LONG = (2, 3), (5, 6, 7)  # words of an answer

_SUBJECTS: Mapping[str, tuple[str, ...]] = {
    "salt": ("soup", "bread", "stew", "roast"),
    "gold": ("ring", "crown", "coin", "watch"),
    "wind": ("kite", "sail", "mill", "flag"),
    "moon": ("night", "tide", "orbit", "comet"),
    "wool": ("scarf", "glove", "coat", "rug"),
    "jazz": ("horn", "piano", "drum", "club"),
    "milk": ("cheese", "cream", "butter", "yogurt"),
    "clay": ("vase", "brick", "tile", "kiln"),
    "frog": ("pond", "marsh", "lily", "ditch"),
    "text": ("novel", "poem", "essay", "diary"),
    "quiz": ("exam", "class", "grade", "tutor"),
    "bike": ("road", "race", "wheel", "chain"),
}
"""Domains of `toy_domains`: the word that its preferred answers hold, and what its prompts are about."""


def conflicting_domains(pairs: int = 200, seed: int = 0) -> PairCorpus:
    """Return domains `longer` and `shorter`: the same kind of answers, opposite preferences (papers.md, claim R8).

    Both draw their answers alike: one of two or three words, one of five to seven. `longer` prefers the longer,
    `shorter` the shorter, so that a judge blind to the prompt is right in half of all pairs. Prompts of the two are
    about different things.

    pairs: of each domain, every one with a prompt of its own. Raises DataError under 1 or over 576.

    >>> corpus = conflicting_domains(4)
    >>> {domain.name: [len(each.chosen) > len(each.rejected) for each in domain.pairs] for domain in corpus}
    {'longer': [True, True, True, True], 'shorter': [False, False, False, False]}
    """
    return PairCorpus(tuple(_one_of_two(name, pairs, random.Random(f"{name} {seed}")) for name in _THINGS))


def toy_domains(count: int, pairs: int = 200, seed: int = 0) -> PairCorpus:
    """Return so many domains whose rules differ but do not conflict: the preferred answer holds the domain's word.

    The other answer holds another domain's word in its place, so that an expert of one domain knows nothing of the next
    one's rule, and a judge of all needs the prompt. Both answers hold the same other words.

    count: 1 to 12 domains. pairs: of each, every one with a prompt of its own; at most 3,600. Raises DataError beyond.

    >>> corpus = toy_domains(2, 3)
    >>> [all(domain.name in pair.chosen.split() for pair in domain.pairs) for domain in corpus]
    [True, True]
    >>> any(domain.name in pair.rejected.split() for domain in corpus for pair in domain.pairs)
    False
    """
    if not 1 <= count <= len(_SUBJECTS):
        raise DataError(f"there are 1 to {len(_SUBJECTS)} toy domains, got {count}. Ask for fewer.")
    names = list(_SUBJECTS)[:count]
    return PairCorpus(tuple(_of_a_word(name, pairs, random.Random(f"{name} {seed}")) for name in names))


def _one_of_two(name: str, pairs: int, generator: random.Random) -> PairDomain:
    def answers() -> tuple[str, str]:
        long, short = (_fillers(generator.choice(counts), generator) for counts in (_LONG, _SHORT))
        return (long, short) if name == "longer" else (short, long)

    prompts = (f"the {quality} {thing} {place}: " for quality, thing, place in _all(_QUALITIES, _THINGS[name], _PLACES))
    return _domain(name, _some(prompts, pairs, generator), answers)


def _of_a_word(name: str, pairs: int, generator: random.Random) -> PairDomain:
    others = [each for each in _SUBJECTS if each != name]

    def answers() -> tuple[str, str]:
        words, place = _fillers(3, generator).split(), generator.randrange(4)
        with_own, with_another = (
            " ".join([*words[:place], each, *words[place:]]) for each in (name, generator.choice(others))
        )
        return with_own, with_another

    numbers = [str(number) for number in range(100, 1000)]
    prompts = (f"{subject} {number}: " for subject, number in _all(_SUBJECTS[name], numbers))
    return _domain(name, _some(prompts, pairs, generator), answers)


def _all(*choices: tuple[str, ...] | list[str]) -> Iterator[tuple[str, ...]]:
    return itertools.product(*choices)


def _some(prompts: Iterator[str], pairs: int, generator: random.Random) -> list[str]:
    every = list(prompts)
    if not 1 <= pairs <= len(every):
        raise DataError(f"a synthetic domain has 1 to {len(every)} pairs, got {pairs}. Ask for fewer.")
    return generator.sample(every, pairs)


def _domain(name: str, prompts: list[str], answers: Callable[[], tuple[str, str]]) -> PairDomain:
    return PairDomain(name, tuple(Pair(prompt, *answers()) for prompt in prompts), kind=SYNTHETIC)


def _fillers(count: int, generator: random.Random) -> str:
    return " ".join(generator.sample(_FILLERS, count))
