"""Words of a text that arrives token by token."""

import re
from dataclasses import dataclass

from collegium.core.protocols import Tokenizer

_UNFINISHED = re.compile(r"\w*\Z")
_BROKEN = "\ufffd"
_LONGEST_CHARACTER = 8
"""Tokens after which bytes that are no character are taken as they are."""


@dataclass(frozen=True)
class Reading:
    """Where a text stands: the last tokens decoded, those whose bytes are half a character, the unfinished word."""

    last: tuple[int, ...] = ()
    waiting: tuple[int, ...] = ()
    word: str = ""

    def read(self, token: int, tokenizer: Tokenizer) -> tuple[str, "Reading"]:
        """Return the words that this token finished, as text, and where the text stands now.

        A token is decoded behind the one before it, because some tokenizers drop a leading space. A word is finished
        by a character that cannot be part of it; the finished text is what `finished` cuts from the whole text.

        >>> from collegium.testing.tiny import LetterTokenizer
        >>> reading, texts = Reading(), []
        >>> for token in LetterTokenizer().encode("to be"):
        ...     text, reading = reading.read(token, LetterTokenizer())
        ...     texts.append(text)
        >>> texts, reading.word
        (['', '', 'to ', '', ''], 'be')
        """
        waiting = (*self.waiting, token)
        before = tokenizer.decode(list(self.last)) if self.last else ""
        text = tokenizer.decode([*self.last, *waiting])
        if text.endswith(_BROKEN) and len(waiting) < _LONGEST_CHARACTER:
            return "", Reading(self.last, waiting, self.word)
        whole = self.word + text[len(before) :]
        done = finished(whole)
        return done, Reading(waiting, (), whole[len(done) :])


def finished(text: str) -> str:
    """Return the text without the word at its end, which may still grow.

    >>> finished("to be, or n")
    'to be, or '
    """
    unfinished = _UNFINISHED.search(text)
    return text[: unfinished.start()] if unfinished else text
