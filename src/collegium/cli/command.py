"""What a command is: a frozen dataclass of options, and a function of it and the screen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

from collegium.cli.console import Screen
from collegium.cli.output import Outcome


@dataclass(frozen=True)
class Command:
    """One verb.

    config:      a frozen dataclass; its fields are the flags, the keys of `--config` and the arguments in Python.
    run:         does the work, shows it on the screen and returns it.
    memory_flag: what to lower when memory is exhausted, a flag where one helps.
    resumes:     whether the same command goes on where it was interrupted.
    relays:      whether the words from the first that is none of its own options on are another program's, and reach
                 the config's positional `arguments` as they are.
    """

    config: type
    run: Callable[[Any, Screen], Outcome]
    memory_flag: str = "--threads"
    resumes: bool = False
    relays: bool = False

    @property
    def summary(self) -> str:
        """The first line of its documentation."""
        return (self.config.__doc__ or "").strip().partition("\n")[0]


@dataclass(frozen=True)
class Group:
    """Verbs on one noun."""

    summary: str
    verbs: Mapping[str, Command]


Table: TypeAlias = Mapping[str, Command | Group]
"""The whole command line."""
