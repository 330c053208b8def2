"""What a command gives to programs: one object, or rows, on standard output."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Output:
    """How a command is answered, and where its options come from."""

    json: bool = False
    """One JSON object as the last line of standard output; what people read goes to standard error."""
    jsonl: bool = False
    """One JSON object for each row, line by line."""
    config: Path | None = None
    """A TOML file with options (rank = 8); flags win over it, and it wins over defaults."""

    @property
    def for_programs(self) -> bool:
        """Whether standard output belongs to a program."""
        return self.json or self.jsonl


@dataclass(frozen=True)
class Outcome:
    """What a command found: the object of `--json`, the rows of `--jsonl`, and the exit code.

    rows: None for a command without rows of its own.
    """

    value: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]] | None = None
    code: int = 0


def emit(outcome: Outcome, output: Output) -> None:
    """Write what programs asked for; without rows of its own a command's object is its one row."""
    if output.jsonl:
        for row in [outcome.value] if outcome.rows is None else outcome.rows:
            sys.stdout.write(_line(row))
    if output.json:
        sys.stdout.write(_line(outcome.value))
    sys.stdout.flush()


def _line(value: Mapping[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, allow_nan=False, default=_plain) + "\n"


def _plain(value: object) -> str:
    """Return paths as text; anything else that JSON lacks is our own mistake."""
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"{type(value).__name__} is not a plain value")
