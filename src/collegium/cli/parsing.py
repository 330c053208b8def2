"""From words to a command and its options: file < flags over defaults, through tyro."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Union

import tyro

from collegium.cli.command import Command, Group, Table
from collegium.cli.fields import FLAT, MARKERS, as_declared, as_parsed, filled, leaves, parsed_kind, registry
from collegium.cli.output import Output
from collegium.core.config import read_toml

PROGRAM = "collegium"
RELAYED = "arguments"
"""The field of a relaying command that holds the other program's words."""


@dataclass(frozen=True)
class Request:
    """What was asked: the command, its resolved options, and how to answer."""

    path: tuple[str, ...]
    command: Command
    config: Any
    output: Output


def parse(table: Table, words: Sequence[str]) -> Request:
    """Return what the words ask for.

    Raises SystemExit 2 for wrong flags and 0 for help, as tyro does; ConfigError for a configuration file's mistakes.
    """
    path = command_path(table, words)
    if path is not None and _command(table, path).relays:
        words = [*path, *relayed(words[len(path) :], _command(table, path).config)]
    file = _config_file(words)
    defaults = None
    if file is not None and path is not None:
        defaults = filled(_command(table, path).config, read_toml(file), where=str(file))
    orders = _orders(table, path, defaults)
    kind = _union_of(table, orders)
    found: Any = tyro.cli(kind, prog=PROGRAM, args=list(words), config=MARKERS, registry=registry())
    chosen = next(path for path, order in orders.items() if isinstance(found, order.kind))
    command = _command(table, chosen)
    return Request(chosen, command, as_declared(command.config, found.config), found.output)


def command_path(table: Table, words: Sequence[str]) -> tuple[str, ...] | None:
    """Return the command that the first words name, None when they name none."""
    first = words[0] if words else ""
    entry = table.get(first)
    if isinstance(entry, Command):
        return (first,)
    if isinstance(entry, Group) and len(words) > 1 and words[1] in entry.verbs:
        return (first, words[1])
    return None


def relayed(words: Sequence[str], config: type) -> list[str]:
    """Return the words of a command that relays: its own options, then `--`, then another program's words as they are.

    Its own are all up to the first word that is none of them; switches, which take no value, may stand anywhere.

    >>> from collegium.recipes.harness import LmEvalConfig
    >>> relayed(["--each", "--model", "hf", "--json"], LmEvalConfig)
    ['--each', '--json', '--', '--model', 'hf']
    """
    options = [leaf for kind in (config, Output) for leaf in leaves(kind) if leaf.flag != RELAYED]
    flags = {f"--{leaf.flag}": leaf.kind for leaf in options}
    switches = {flag for flag, kind in flags.items() if kind is bool}
    own: list[str] = []
    rest = list(words)
    while rest:
        name, mark, _ = rest[0].partition("=")
        if rest[0] == "--":
            return [*own, *rest]
        if rest[0] not in {"--help", "-h", *switches} and name not in flags:
            break
        taken = 1 if mark or name not in flags or name in switches else 2
        own, rest = [*own, *rest[:taken]], rest[taken:]
    found = [word for word in rest if word in switches]
    return [*own, *found, *(["--"] if rest else []), *(word for word in rest if word not in switches)]


def _command(table: Table, path: tuple[str, ...]) -> Command:
    entry = table[path[0]]
    return entry.verbs[path[1]] if isinstance(entry, Group) else entry


def _config_file(words: Sequence[str]) -> Path | None:
    """Return the last `--config FILE` before any `--`."""
    found = None
    for place, word in enumerate(words):
        if word == "--":
            break
        if word == "--config" and place + 1 < len(words):
            found = Path(words[place + 1])
        elif word.startswith("--config="):
            found = Path(word.partition("=")[2])
    return found


@dataclass(frozen=True)
class _Order:
    """One command as tyro sees it: a dataclass of its options beside those of the output."""

    kind: type
    option: Any


def _orders(table: Table, path: tuple[str, ...] | None, defaults: object) -> dict[tuple[str, ...], _Order]:
    """Return every command's order by its path; the chosen one starts from the file's values."""
    paths = [
        (name, verb) if isinstance(entry, Group) else (name,)
        for name, entry in table.items()
        for verb in (entry.verbs if isinstance(entry, Group) else [name])
    ]
    return {each: _order(_command(table, each), each[-1], defaults if each == path else None) for each in paths}


def _order(command: Command, name: str, defaults: object) -> _Order:
    config = parsed_kind(command.config)
    parts = [("config", Annotated[config, FLAT]), ("output", Annotated[Output, FLAT], field(default=Output()))]
    kind = make_dataclass("Order", parts, frozen=True)
    subcommand = tyro.conf.subcommand
    if defaults is not None:
        subcommand = partial(subcommand, default=kind(as_parsed(config, defaults)))
    description = inspect.cleandoc(command.config.__doc__ or "")
    return _Order(kind, Annotated[kind, subcommand(name, description=description, prefix_name=False)])


def _union_of(table: Table, orders: Mapping[tuple[str, ...], _Order]) -> Any:  # noqa: ANN401 - a type form
    """Return the type that tyro parses: a union of commands and of groups, which are unions themselves."""
    options = []
    for name, entry in table.items():
        if isinstance(entry, Command):
            options.append(orders[name,].option)
            continue
        verbs = [orders[name, verb].option for verb in entry.verbs]
        if len(verbs) == 1:  # a union has two members or it is none
            verbs.append(Annotated[None, tyro.conf.Suppress])
        group = tyro.conf.subcommand(name, description=entry.summary, prefix_name=False)
        options.append(Annotated[Union[tuple(verbs)], group])  # noqa: UP007 - built at run time
    return Union[tuple(options)]  # noqa: UP007 - built at run time
