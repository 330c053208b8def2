"""Features of completions: what constraints, tilts and moments are said of. Each is a `Feature`.

Words are runs of letters, digits, apostrophes and underscores, compared without regard to case, in the decoded
completion alone: the prompt and the end token are not seen.
"""

import ast
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.core.samples import Sample, plain_text

WORD = re.compile(r"[^\W_]+(?:['\u2019_][^\W_]+)*")
"""A word: letters and digits, with apostrophes and underscores inside."""

SHE = ("she", "her", "hers", "herself")
HE = ("he", "him", "his", "himself")


@dataclass(frozen=True)
class TextFeature:
    """A number for each completion, from its text alone.

    name: as targets write it. judge: completion -> number.
    """

    name: str
    judge: Callable[[str], float] = field(compare=False)

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return each completion's number."""
        return torch.tensor([float(self.judge(plain_text(each.completion))) for each in samples])


def words_of(text: str) -> list[str]:
    """Return a text's words, in small letters.

    >>> words_of("She said: 'It's HERS!'")
    ['she', 'said', "it's", 'hers']
    """
    return [word.replace("\u2019", "'") for word in WORD.findall(text.casefold())]


def contains(word: str) -> TextFeature:
    """Return 1 where a word, or several in a row, stand in the completion as whole words, else 0.

    >>> contains("she")([Sample("", " She went."), Sample("", " Ashes.")])
    tensor([1., 0.])
    """
    return TextFeature(f"contains({quoted(word)})", _finder([word]))


def any_of(*words: str) -> TextFeature:
    """Return 1 where at least one of these words stands in the completion, else 0."""
    if not words:
        raise ConfigError('any_of takes words: any_of("sea", "ship").')
    return TextFeature(f"any_of({', '.join(map(quoted, words))})", _finder(words))


def regex(pattern: str) -> TextFeature:
    """Return 1 where a regular expression is found in the completion, else 0; raises ConfigError for a wrong one."""
    try:
        found = re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"{pattern!r} is no regular expression: {error}.") from error
    return TextFeature(f"regex({quoted(pattern)})", lambda text: found.search(text) is not None)


def count_of(*words: str) -> TextFeature:
    """Return how often these words stand in the completion."""
    known = _spelled(words)
    return TextFeature(
        f"count_of({', '.join(map(quoted, words))})", lambda text: sum(word in known for word in words_of(text))
    )


def female() -> TextFeature:
    """Return 1 where a completion has more of she, her, hers, herself than of he, him, his, himself, else 0.

    >>> female()([Sample("", " her mother saw him"), Sample("", " and she told her")])
    tensor([0., 1.])
    """

    def judge(text: str) -> float:
        words = words_of(text)
        return float(sum(word in SHE for word in words) > sum(word in HE for word in words))

    return TextFeature("female()", judge)


def length() -> TextFeature:
    """Return how many words a completion has."""
    return TextFeature("length()", lambda text: len(words_of(text)))


def compiles() -> "WholeText":
    """Return 1 where prompt and completion together are Python that parses, else 0; nothing is run."""
    return WholeText(TextFeature("compiles()", _parses))


@dataclass(frozen=True)
class WholeText:
    """A feature that reads prompt and completion as one text."""

    inner: TextFeature

    @property
    def name(self) -> str:
        """The inner feature's."""
        return self.inner.name

    def __call__(self, samples: Sequence[Sample]) -> Float[Tensor, " sample"]:
        """Return each text's number."""
        return self.inner([Sample("", plain_text(each.prompt) + plain_text(each.completion)) for each in samples])


def _parses(text: str) -> bool:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    return True


def _finder(phrases: Sequence[str]) -> Callable[[str], float]:
    known = [words_of(phrase) for phrase in phrases]
    for phrase, words in zip(phrases, known, strict=True):
        if not words:
            raise ConfigError(f"{phrase!r} has no word in it; for other signs use regex({quoted(phrase)}).")

    def judge(text: str) -> float:
        said = words_of(text)
        return float(
            any(words == said[at : at + len(words)] for words in known for at in range(len(said) - len(words) + 1))
        )

    return judge


def _spelled(words: Sequence[str]) -> frozenset[str]:
    found = [words_of(word) for word in words]
    if not words or any(len(each) != 1 for each in found):
        raise ConfigError(f"words are given each by itself, got {', '.join(map(repr, words)) or 'none'}.")
    return frozenset(each[0] for each in found)


def quoted(text: str) -> str:
    """Return a text in double quotes, as targets write it.

    >>> print(quoted('say "hi"'))
    "say \\"hi\\""
    """
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
