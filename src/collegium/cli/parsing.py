"""From words to options: file < flags over defaults, through tyro."""

import contextlib
import dataclasses
import inspect
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, make_dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from collegium.cli.command import Command, Group, Table
from collegium.cli.output import Output
from collegium.core.config import read_toml
from collegium.core.errors import ConfigError
from collegium.core.tables import nearest

PROGRAM = "collegium"
_MARKERS = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.FlagCreatePairsOff)
_FLAT: Any = tyro.conf.arg(name="")


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
    defaults = None
    file = _config_file(words)
    if file is not None and path is not None:
        defaults = filled(_command(table, path).config, read_toml(file), where=str(file))
    orders = _orders(table, path, defaults)
    found: Any = tyro.cli(
        _union_of(table, orders), prog=PROGRAM, args=list(words), config=_MARKERS, registry=registry()
    )
    chosen = next(path for path, order in orders.items() if isinstance(found, order.kind))
    return Request(chosen, _command(table, chosen), found.config, found.output)


def command_path(table: Table, words: Sequence[str]) -> tuple[str, ...] | None:
    """Return the command that the first words name, None when they name none."""
    first = words[0] if words else ""
    entry = table.get(first)
    if isinstance(entry, Command):
        return (first,)
    if isinstance(entry, Group) and len(words) > 1 and words[1] in entry.verbs:
        return (first, words[1])
    return None


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
    config = ("config", Annotated[command.config, _FLAT])
    output = ("output", Annotated[Output, _FLAT], field(default=Output()))
    kind = make_dataclass("Order", [config, output], frozen=True)
    default = tyro.conf.subcommand if defaults is None else partial(tyro.conf.subcommand, default=kind(defaults))
    description = inspect.cleandoc(command.config.__doc__ or "")
    return _Order(kind, Annotated[kind, default(name, description=description, prefix_name=False)])


def _union_of(table: Table, orders: Mapping[tuple[str, ...], _Order]) -> Any:  # noqa: ANN401 - a type form
    """Return the type that tyro parses: a union of commands and of groups, which are unions themselves."""
    options = []
    for name, entry in table.items():
        if isinstance(entry, Command):
            options.append(orders[name,].option)
            continue
        verbs = Union[tuple(orders[name, verb].option for verb in entry.verbs)]  # noqa: UP007 - built at run time
        options.append(Annotated[verbs, tyro.conf.subcommand(name, description=entry.summary, prefix_name=False)])
    return Union[tuple(options)]  # noqa: UP007 - built at run time


def registry() -> ConstructorRegistry:
    """Return tyro's rules and ours: a table of texts is written KEY=VALUE KEY=VALUE."""
    rules = ConstructorRegistry()

    def text_table(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if get_origin(info.type) not in {dict, Mapping} or get_args(info.type) != (str, str):
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="KEY=VALUE",
            instance_from_str=_read_pairs,
            is_instance=lambda value: isinstance(value, dict),
            str_from_instance=lambda value: [f"{key}={each}" for key, each in value.items()],
        )

    rules.primitive_rule(text_table)
    return rules


def _read_pairs(words: list[str]) -> dict[str, str]:
    """Return KEY=VALUE words as a table; ValueError is what tyro shows beside the flag."""
    pairs = {}
    for word in words:
        key, mark, value = word.partition("=")
        if not mark or not key or not value:
            raise ValueError(f"expected KEY=VALUE, got {word!r}")
        pairs[key] = value
    return pairs


def filled(config: type, values: Mapping[str, Any], *, where: str) -> Any:  # noqa: ANN401 - an instance of `config`
    """Return the dataclass with these values over its defaults; what is required and not given stays missing.

    Raises ConfigError with every unknown key (and its nearest) and every value of the wrong kind.
    """
    problems: list[str] = []
    rest = {key.replace("-", "_"): value for key, value in values.items()}
    known: list[str] = []
    instance = _fill(config, rest, known, problems)
    problems = [f"unknown key {key!r}. {nearest(key, known)}" for key in rest] + problems
    if problems:
        raise ConfigError(f"{where}: " + " ".join(problems))
    return instance


def _fill(config: type, rest: dict[str, Any], known: list[str], problems: list[str]) -> Any:  # noqa: ANN401
    """Take this dataclass's keys out of `rest`; fields without a prefix share the file's table with it."""
    hints = get_type_hints(config, include_extras=True)
    chosen: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        kind = hints[each.name]
        inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
        if dataclasses.is_dataclass(inner) and isinstance(inner, type):
            flat = get_origin(kind) is Annotated and tyro.conf.OmitArgPrefixes in get_args(kind)[1:]
            chosen[each.name] = _nested(inner, each.name, flat=flat, rest=rest, known=known, problems=problems)
            continue
        key = _flag(kind, each.name)
        known.append(key)
        if key in rest:
            chosen[each.name] = _value(kind, key, rest.pop(key), problems)
        elif each.default is not dataclasses.MISSING:
            chosen[each.name] = each.default
        elif each.default_factory is not dataclasses.MISSING:
            chosen[each.name] = each.default_factory()
        else:
            chosen[each.name] = tyro.MISSING
    try:
        return config(**chosen)
    except ConfigError as error:  # a value out of the dataclass's own bounds
        problems.append(str(error))
        return None


def _flag(kind: Any, name: str) -> str:  # noqa: ANN401 - a type form
    """Return the name a field goes by on the command line and in files."""
    marks: tuple[Any, ...] = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((mark.name for mark in marks if isinstance(mark, type(_FLAT)) and mark.name), name)


def _nested(config: type, name: str, *, flat: bool, rest: dict[str, Any], known: list[str], problems: list[str]) -> Any:  # noqa: ANN401 - an instance of `config`
    if flat:
        return _fill(config, rest, known, problems)
    known.append(name)
    table = rest.pop(name, {})
    if not isinstance(table, dict):
        problems.append(f"{name} is a table ([{name}]), got {table!r}.")
        return None
    inner = {key.replace("-", "_"): value for key, value in table.items()}
    inner_known: list[str] = []
    instance = _fill(config, inner, inner_known, problems)
    problems += [f"unknown key {name}.{key!r}. {nearest(key, inner_known)}" for key in inner]
    return instance


def _value(kind: Any, name: str, value: object, problems: list[str]) -> Any:  # noqa: ANN401 - of the field's type
    """Return a file's value read as the flag's words would be."""
    with _silence():
        try:
            return tyro.cli(kind, args=_words(value), config=_MARKERS, registry=registry())
        except SystemExit:
            problems.append(f"{name} = {value!r} cannot be read; see --help for what it may be.")
            return None


def _words(value: object) -> list[str]:
    """Return a file's value as the words of a command line."""
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    if isinstance(value, dict):
        return [f"{key}={each}" for key, each in value.items()]
    return [str(value)]


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Hold back what tyro prints."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        yield
