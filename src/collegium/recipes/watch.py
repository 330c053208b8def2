"""What a recipe tells whoever watches it."""

from collections.abc import Callable
from typing import Protocol, runtime_checkable

Update = Callable[[int], None]
"""Told how much is done so far."""


@runtime_checkable
class Watch(Protocol):
    """A screen, a log, or nobody."""

    def say(self, text: str) -> None:
        """Show a line."""
        ...

    def begin(self, label: str, total: int) -> Update:
        """Start a bar of `total` units and return its updater; it ends when all are done."""
        ...


class Silent:
    """Nobody watches."""

    def say(self, text: str) -> None:
        """Show nothing."""

    def begin(self, label: str, total: int) -> Update:
        """Return an updater that shows nothing."""

        def update(done: int) -> None:
            del done

        return update
