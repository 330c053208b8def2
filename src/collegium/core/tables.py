"""Tables of methods, and names close to a mistyped one."""

import difflib
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Literal


@dataclass(frozen=True)
class Method:
    """One row of a family's table: a short chain of steps with its paper and claims.

    paper: key in docs/papers.md, None where there is none.
    growth: routers alone; whether experts come and go without a new fit.
    """

    build: Callable[..., Any]
    paper: str | None = None
    growth: Literal["exact", "refit"] | None = None
    claims: tuple[str, ...] = ()
    summary: str = ""


def nearest(name: str, options: Iterable[str]) -> str:
    """Return a sentence that names the closest option, or all of them.

    >>> nearest("postrior", ["posterior", "uniform"])
    "Did you mean 'posterior'?"
    """
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1)
    if close:
        return f"Did you mean {close[0]!r}?"
    return f"Known: {', '.join(known)}." if known else "There are none yet."
