"""Test prompts and answers that stand, almost the same, in what is learned from."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from collegium.data.duplicates import similar_texts
from collegium.data.preferences import Pair, PairSplit, Text, plain_text


@dataclass(frozen=True)
class PromptLeak:
    """A test prompt and one of train or dev that is (almost) the same; similarity as of near duplicates.

    domains, origins: of the prompt of train or dev first, then of the test prompt.
    """

    domains: tuple[str, str]
    origins: tuple[str, str]
    similarity: float


@dataclass(frozen=True)
class _Place:
    domain: str
    test: bool
    text: str
    origin: str


@dataclass(frozen=True)
class Leaks:
    """What test shares with train and dev.

    found: test prompts that equal or resemble one to learn from, once for each domain that has such a one.
    prompts, answers: how many different test prompts and answers of each domain stand there, too.
    """

    found: tuple[PromptLeak, ...]
    prompts: Mapping[str, int]
    answers: Mapping[str, int]


def find_leaks(splits: Mapping[str, PairSplit]) -> Leaks:
    """Return test prompts that equal or resemble a prompt of train or dev, of any domain, the closest first.

    splits: of each domain. Upper and lower case and white space make no difference, nor do a chat's system messages,
    which many prompts share. Answers are compared as they are.

    >>> from collegium.data import Pair, PairSplit
    >>> law = PairSplit((Pair("Is rent due?", "yes", "no"),), (), (Pair("is rent  due?", "no", "never"),))
    >>> find_leaks({"law": law}).prompts, find_leaks({"law": law}).answers
    ({'law': 1}, {'law': 1})
    """
    places = [*_places(splits, test=False), *_places(splits, test=True)]
    near = similar_texts(
        [each.text for each in places],
        [(each.domain, each.test) for each in places],
        compared=lambda earlier, later: later[1] and not earlier[1],
    )
    closest: dict[tuple[int, str], tuple[int, float]] = {}
    for seen, test, similarity in [*_equal(places), *near]:
        key = test, places[seen].domain
        if key not in closest or similarity > closest[key][1]:
            closest[key] = seen, similarity
    found = [_leak(places[seen], places[test], similarity) for (test, _), (seen, similarity) in closest.items()]
    counts = Counter(places[test].domain for test in {test for test, _ in closest})
    learned = {text for split in splits.values() for text in _answers((*split.train, *split.dev))}
    return Leaks(
        tuple(sorted(found, key=lambda each: (-each.similarity, each.domains, each.origins))),
        {name: counts[name] for name in splits},
        {name: len(_answers(split.test) & learned) for name, split in splits.items()},
    )


def _leak(seen: _Place, test: _Place, similarity: float) -> PromptLeak:
    return PromptLeak((seen.domain, test.domain), (seen.origin, test.origin), similarity)


def _places(splits: Mapping[str, PairSplit], *, test: bool) -> list[_Place]:
    """Return the different prompts of test, or of train and dev, domain by domain."""
    found: dict[tuple[str, str], _Place] = {}
    for name, split in splits.items():
        for pair in split.test if test else (*split.train, *split.dev):
            text = " ".join(_asked(pair.prompt).lower().split())
            found.setdefault((name, text), _Place(name, test, text, pair.origin))
    return list(found.values())


def _asked(prompt: Text) -> str:
    if isinstance(prompt, str):
        return prompt
    return plain_text(tuple(each for each in prompt if each.role != "system")) or plain_text(prompt)


def _equal(places: Sequence[_Place]) -> list[tuple[int, int, float]]:
    """Return equal prompts: the search for similar ones may pass over some of very many."""
    seen: dict[str, list[int]] = {}
    found = []
    for number, place in enumerate(places):
        if place.test:
            found += [(earlier, number, 1.0) for earlier in seen.get(place.text, ())]
        else:
            seen.setdefault(place.text, []).append(number)
    return found


def _answers(pairs: Sequence[Pair]) -> set[str]:
    return {plain_text(each).strip() for pair in pairs for each in (pair.chosen, pair.rejected)}
