"""Run-time checks of shapes and types, on a function's first calls in each test: in loops they double its time."""

import contextlib
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jaxtyping

CALLS = 8
"""Of each function in each test that are checked."""


class Sparing:
    """What the import hook decorates functions with, in place of `jaxtyping.jaxtyped`."""

    def __init__(self, jaxtyped: Callable[..., Any]) -> None:
        self.jaxtyped, self.test, self.checks = jaxtyped, 0, True

    def __call__(self, *given: Any, **options: Any) -> Any:
        if not given:
            return functools.partial(self, **options)
        if inspect.isfunction(given[0]):
            return self.sparing(given[0], functools.partial(self.jaxtyped, *given, **options))
        return self.jaxtyped(*given, **options)

    def sparing(self, plain: Callable[..., Any], checking: Callable[[], Callable[..., Any]]) -> Callable[..., Any]:
        """Return a function that is checked until it was called often enough in this test.

        checking: makes the function that is checked, which takes a millisecond and so waits for the first call.
        """
        test, left, checked = 0, CALLS, None

        @functools.wraps(plain)
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal test, left, checked
            if test != self.test:
                test, left = self.test, CALLS
            if left and self.checks:
                left -= 1
                checked = checked or checking()
                return checked(*args, **kwargs)
            return plain(*args, **kwargs)

        return call

    def next_test(self) -> None:
        """Check every function's first calls again."""
        self.test += 1

    @contextlib.contextmanager
    def unchecked(self) -> Iterator[None]:
        """Check nothing, where calls are counted."""
        self.checks = False
        try:
            yield
        finally:
            self.checks = True


SPARING = Sparing(jaxtyping.jaxtyped)


def install() -> None:
    """Let modules of the package that are imported from now on be checked sparingly."""
    jaxtyping.jaxtyped = SPARING
