"""Rows of tasks as sources make them: grouped, so that what belongs together is learnt from or tested by, not both."""

import hashlib
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

ROWS = 1500
"""The most rows of a task."""
_FIFTH = 5


@dataclass(frozen=True)
class SourceRow:
    """A row of a task; group: what its text is taken from (a chat, a play, a module).

    choices: the answers that compete, none where any text may be one.
    """

    group: str
    prompt: str
    completion: str
    choices: tuple[str, ...] = ()

    @property
    def tested(self) -> bool:
        """Whether it belongs to the test part: a fifth of the groups, by their hash."""
        return int(hashlib.sha256(self.group.encode()).hexdigest(), 16) % _FIFTH == 0

    def to_json(self) -> dict[str, Any]:
        """Return the row as a file of tasks has it."""
        row: dict[str, Any] = {"prompt": self.prompt, "completion": self.completion}
        return row | ({"choices": list(self.choices)} if self.choices else {})


def some_rows(rows: Iterable[SourceRow], generator: random.Random) -> tuple[SourceRow, ...]:
    """Return at most `ROWS` of the rows, each prompt once, drawn.

    >>> some_rows([SourceRow("a", "1 + 1 =", " 2"), SourceRow("b", "1 + 1 =", " two")], random.Random(0))[0].completion
    ' 2'
    """
    distinct = list({row.prompt: row for row in reversed(list(rows))}.values())[::-1]
    generator.shuffle(distinct)
    return tuple(distinct[:ROWS])
