"""Preference pairs: a prompt with two answers, one preferred; domains of them, split by prompt."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from collegium.core.cards import Source, content_hash
from collegium.core.errors import DataError, NameTaken
from collegium.core.names import check_name
from collegium.core.samples import Sample, Text, plain_text
from collegium.core.tables import nearest

__all__ = ["MINIMUM_PROMPTS", "Pair", "PairCorpus", "PairDomain", "PairSplit", "Text", "plain_text", "take_pairs"]

MINIMUM_PROMPTS = 3

_ALIKE = 0.1
"""By how much of the longer the lengths of two answers may differ to count as equal."""


@dataclass(frozen=True)
class Pair:
    """A prompt and two answers to it, the first of which was preferred.

    margin: by how much, in the data's own units; None where it does not say.
    group:  what the prompt was taken from (a chat, a story): pairs of one group stay in one part of a split. Without
            one, the prompt is its own group.
    origin: file and row it was read from, for messages to the user; no part of what the pair is.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    margin: float | None = None
    group: str = ""
    origin: str = field(default="", compare=False)

    @cached_property
    def hash(self) -> str:
        """The sha256 of what decides its place in a split: the group, or the prompt where there is none."""
        return content_hash({"group": self.group} if self.group else {"prompt": plain_value(self.prompt)})

    @cached_property
    def identity(self) -> str:
        """The sha256 of prompt and answers; two pairs that share it say the same."""
        return content_hash([plain_value(each) for each in (self.prompt, self.chosen, self.rejected)])

    @property
    def samples(self) -> tuple[Sample, Sample]:
        """The prompt with the answer that was chosen, and with the one that was not."""
        return Sample(self.prompt, self.chosen), Sample(self.prompt, self.rejected)

    @property
    def length_matched(self) -> bool:
        """Whether the answers' characters differ by at most a tenth of the longer one's."""
        lengths = len(plain_text(self.chosen)), len(plain_text(self.rejected))
        return max(lengths) - min(lengths) <= _ALIKE * max(lengths)


def plain_value(text: Text) -> Any:  # noqa: ANN401 - what JSON holds
    """Return a text as JSON holds it: itself, or a chat as a list of role and content."""
    return text if isinstance(text, str) else [[each.role, each.content] for each in text]


@dataclass(frozen=True)
class PairSplit:
    """A domain's pairs in three: to learn from, to choose by, to judge by."""

    train: tuple[Pair, ...]
    dev: tuple[Pair, ...]
    test: tuple[Pair, ...]

    @property
    def hashes(self) -> dict[str, tuple[str, ...]]:
        """What a card lists: the hashes of all train and dev groups or prompts, used or not, each once."""
        parts = {"train": self.train, "dev": self.dev}
        return {name: tuple(dict.fromkeys(each.hash for each in pairs)) for name, pairs in parts.items()}


@dataclass(frozen=True)
class PairDomain:
    """Pairs of one domain.

    kind:       what its preferences are: checked answers, labels turned into pairs, ratings, corruption, synthetic.
    duplicates: how many exact copies of earlier pairs were left out.
    unusable:   how many pairs were left out because their answers are equal or a text is empty.
    alone:      how many labelled or rated answers were left out because their prompt has no other label or rating.
    surplus:    how many pairs of labelled or rated answers were left out because their prompt has enough.
    """

    name: str
    pairs: tuple[Pair, ...]
    kind: str = ""
    sources: tuple[Source, ...] = ()
    duplicates: int = 0
    unusable: int = 0
    alone: int = 0
    surplus: int = 0

    def __post_init__(self) -> None:
        """Check the name: it becomes part of its expert's."""
        try:
            check_name(self.name, what="domain")
        except NameTaken as error:
            raise DataError(str(error)) from error

    def split(self) -> PairSplit:
        """Return train, dev and test pairs; raises DataError under three prompts (or groups).

        The hash modulo 10 of the group, or of the prompt where there is none, decides: 0 = test, 1 = dev, the rest
        train. If test or dev is empty, the lowest remaining hash goes there (test first).
        """
        hashes = sorted({each.hash for each in self.pairs})
        if len(hashes) < MINIMUM_PROMPTS:
            raise DataError(
                f"domain {self.name!r} has pairs of {len(hashes)} different prompts; at least {MINIMUM_PROMPTS} are "
                "needed, one to learn from, one to choose by and one to judge by. Add pairs, or take the domain away."
            )
        places = _places(hashes)
        parts = {
            part: tuple(sorted((each for each in self.pairs if places[each.hash] == part), key=lambda each: each.hash))
            for part in ("train", "dev", "test")
        }
        return PairSplit(**parts)


def _places(hashes: Sequence[str]) -> dict[str, str]:
    """Return in which part each hash stands; none of the three parts stays empty."""
    places = {each: {0: "test", 1: "dev"}.get(int(each, 16) % 10, "train") for each in hashes}
    for part in ("test", "dev", "train"):
        if part not in places.values():
            counts = {name: sum(place == name for place in places.values()) for name in ("train", "dev", "test")}
            donor = next(name for name, count in counts.items() if count > 1)
            places[next(each for each in hashes if places[each] == donor)] = part
    return places


def take_pairs(pairs: Sequence[Pair], count: int | None) -> tuple[Pair, ...]:
    """Return at most so many pairs, in the order of their hashes, with as many different prompts as there can be."""
    rounds: dict[str, int] = {}
    ranked = []
    for each in sorted(pairs, key=lambda pair: (pair.hash, pair.identity)):
        rounds[each.hash] = rounds.get(each.hash, 0) + 1
        ranked.append((rounds[each.hash], each.hash, each))
    chosen = [each for _, _, each in sorted(ranked, key=lambda entry: entry[:2])]
    return tuple(chosen if count is None else chosen[:count])


@dataclass(frozen=True)
class PairCorpus:
    """Domains of pairs, each name once; iterate over it, or take one by name."""

    domains: tuple[PairDomain, ...]

    def __post_init__(self) -> None:
        """Check that names are distinct."""
        names = [each.name for each in self.domains]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise DataError(f"each domain has a name of its own; {', '.join(twice)} comes twice. Rename one of them.")

    @property
    def names(self) -> tuple[str, ...]:
        """The domains' names."""
        return tuple(each.name for each in self.domains)

    def only(self, names: Iterable[str]) -> "PairCorpus":
        """Return these domains alone, in this order; raises DataError naming the closest."""
        return PairCorpus(tuple(self[name] for name in names))

    def __iter__(self) -> Iterator[PairDomain]:
        """Go through the domains."""
        return iter(self.domains)

    def __len__(self) -> int:
        """Count the domains."""
        return len(self.domains)

    def __getitem__(self, name: str) -> PairDomain:
        """Return the domain of this name; raises DataError naming the closest."""
        for domain in self.domains:
            if domain.name == name:
                return domain
        raise DataError(f"there is no domain {name!r}. {nearest(name, self.names)}")
