"""Budgets: minutes, tokens, or a word."""

import re
from dataclasses import dataclass

from collegium.core.errors import ConfigError

_NUMBER = re.compile(r"(\d+(?:\.\d+)?)\s*([smhkM]?|min|tokens)$")

MOST = 10**12
"""The largest number of a budget, before its unit: beyond it lies a slip of the finger."""


@dataclass(frozen=True)
class Budget:
    """How much may be spent: seconds or tokens; both None = everything (`full`)."""

    seconds: float | None = None
    tokens: int | None = None


def scored_tokens(text: str, *, reduced: int) -> int | None:
    """Return a budget of scoring in tokens a domain, None = all; raises ConfigError for a time.

    >>> scored_tokens("20k", reduced=8192)
    20000
    """
    budget = parse_budget(text, reduced=reduced)
    if budget.seconds is not None:
        raise ConfigError(f"--budget of scoring is `reduced`, `full` or tokens a domain (20k); got {text!r}.")
    return budget.tokens


def parse_budget(text: str, *, reduced: int | None = None, minutes: float | None = None) -> Budget:
    """Return what `--budget` says: `full`, `reduced`, minutes (`5m`), seconds, hours, or tokens (`200k`).

    reduced, minutes: what `reduced` stands for in this command.

    >>> parse_budget("200k")
    Budget(seconds=None, tokens=200000)
    >>> parse_budget("5m").seconds
    300.0
    """
    word = text.strip()
    if word == "full":
        return Budget()
    if word == "reduced":
        return Budget(None if minutes is None else 60 * minutes, reduced)
    match = _NUMBER.match(word)
    if not match or not 0 < float(match[1]) <= MOST:
        raise ConfigError(
            f"--budget is `reduced`, `full`, a time (5m, 90s, 2h) or tokens (200k, 1M), of "
            f"numbers up to {MOST:,}; got {text!r}."
        )
    number, unit = float(match[1]), match[2]
    seconds = {"s": 1, "m": 60, "min": 60, "h": 3600}.get(unit)
    if seconds is not None:
        return Budget(seconds=number * seconds)
    return Budget(tokens=int(number * {"k": 1000, "M": 1_000_000}.get(unit, 1)))
