"""One dataclass = flags = TOML = Python: a command's options, side by side however its dataclass is nested.

A name that occurs twice (the seed of a fit and of its command) is one flag: it belongs to the outermost dataclass, at
equal depth to the one named last. The recipe carries it to the other.
"""

import contextlib
import dataclasses
import io
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, make_dataclass
from typing import Annotated, Any, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from collegium.core.errors import ConfigError
from collegium.core.tables import nearest

Path = tuple[str, ...]
FLAT: Any = tyro.conf.arg(name="")
MARKERS = (tyro.conf.OmitSubcommandPrefixes, tyro.conf.OmitArgPrefixes, tyro.conf.FlagCreatePairsOff)


@dataclass(frozen=True)
class Leaf:
    """One option: where it lies in the nested dataclass, its type, and the name of its flag."""

    path: Path
    kind: Any
    flag: str


def leaves(config: type, above: Path = ()) -> Iterator[Leaf]:
    """Return the options of a dataclass and of those inside it, in order."""
    hints = get_type_hints(config, include_extras=True)
    for each in dataclasses.fields(config):
        kind = hints[each.name]
        inner = nested(kind)
        if inner is None:
            yield Leaf((*above, each.name), kind, _flag(kind, each.name))
        else:
            yield from leaves(inner, (*above, each.name))


def owners(config: type) -> dict[str, Leaf]:
    """Return the option that each flag sets."""
    found: dict[str, Leaf] = {}
    for leaf in leaves(config):
        if leaf.flag not in found or len(leaf.path) <= len(found[leaf.flag].path):
            found[leaf.flag] = leaf
    return found


def parsed_kind(config: type) -> type:
    """Return the dataclass as tyro should read it: options whose flag belongs to another are hidden."""
    own = {leaf.path for leaf in owners(config).values()}
    return _hiding(config, {leaf.path for leaf in leaves(config)} - own, ())


def _hiding(config: type, hidden: set[Path], above: Path) -> type:
    if not any(path[: len(above)] == above for path in hidden):
        return config
    hints = get_type_hints(config, include_extras=True)
    changed: list[tuple[str, Any, Any]] = []
    for each in dataclasses.fields(config):
        path, inner = (*above, each.name), nested(hints[each.name])
        if path in hidden:
            changed.append((each.name, tyro.conf.Suppress[hints[each.name]], _same_default(each)))
        elif inner is not None:
            kind = _hiding(inner, hidden, path)
            if kind is not inner:
                changed.append((each.name, kind, field(default=kind(**_values(_default(each))))))
    return make_dataclass(config.__name__, changed, bases=(config,), frozen=True)


def _same_default(each: dataclasses.Field[Any]) -> Any:  # noqa: ANN401 - what dataclasses.field gives
    factory = each.default_factory
    return field(default=each.default) if factory is dataclasses.MISSING else field(default_factory=factory)


def _default(each: dataclasses.Field[Any]) -> Any:  # noqa: ANN401 - of the field's type
    return each.default if each.default_factory is dataclasses.MISSING else each.default_factory()


def _values(instance: Any) -> dict[str, Any]:  # noqa: ANN401 - a dataclass
    return {each.name: getattr(instance, each.name) for each in dataclasses.fields(instance)}


def as_declared(config: type, value: Any) -> Any:  # noqa: ANN401 - an instance of `config`
    """Return what was parsed as the dataclass itself."""
    hints = get_type_hints(config, include_extras=True)
    parts = {}
    for name, part in _values(value).items():
        inner = nested(hints[name])
        parts[name] = part if inner is None else as_declared(inner, part)
    return config(**parts)


def as_parsed(kind: type, value: Any) -> Any:  # noqa: ANN401 - an instance of `kind`
    """Return an instance of a declared dataclass as the one that hides options."""
    hints = get_type_hints(kind, include_extras=True)
    parts = {}
    for name, part in _values(value).items():
        inner = nested(hints[name])
        parts[name] = part if inner is None else as_parsed(inner, part)
    return kind(**parts)


def filled(config: type, values: Mapping[str, Any], *, where: str) -> Any:  # noqa: ANN401 - an instance of `config`
    """Return the dataclass with these values over its defaults; what is required and not given stays missing.

    Raises ConfigError with every unknown key (and its nearest) and every value of the wrong kind.
    """
    own = owners(config)
    problems: list[str] = []
    chosen: dict[Path, Any] = {}
    for key, value in values.items():
        leaf = own.get(key.replace("-", "_"))
        if leaf is None:
            problems.append(f"unknown key {key!r}. {nearest(key, own)}")
            continue
        try:
            chosen[leaf.path] = read_value(leaf.kind, value)
        except ValueError:
            problems.append(f"{key} = {value!r} cannot be read; see --help for what it may be.")
    if not problems:
        try:
            return _filled(config, chosen, ())
        except ConfigError as error:  # out of a dataclass's own bounds
            problems.append(str(error))
    raise ConfigError(f"{where}: " + " ".join(problems))


def _filled(config: type, chosen: Mapping[Path, Any], above: Path) -> Any:  # noqa: ANN401 - an instance of `config`
    hints = get_type_hints(config, include_extras=True)
    parts: dict[str, Any] = {}
    for each in dataclasses.fields(config):
        path, inner = (*above, each.name), nested(hints[each.name])
        default = _default(each)
        if path in chosen:
            parts[each.name] = chosen[path]
        elif inner is not None and any(other[: len(path)] == path for other in chosen):
            given = {other[len(path) :]: value for other, value in chosen.items() if other[: len(path)] == path}
            parts[each.name] = _changed(default, given)
        else:
            parts[each.name] = tyro.MISSING if default is dataclasses.MISSING else default
    return config(**parts)


def _changed(instance: Any, given: Mapping[Path, Any]) -> Any:  # noqa: ANN401 - the same dataclass
    """Return the dataclass with the values at these paths."""
    direct = {path[0]: value for path, value in given.items() if len(path) == 1}
    deeper = {path[0] for path in given if len(path) > 1}
    parts = {
        name: _changed(getattr(instance, name), {path[1:]: each for path, each in given.items() if path[0] == name})
        for name in deeper
    }
    return dataclasses.replace(instance, **direct, **parts)


def read_value(kind: Any, value: object) -> Any:  # noqa: ANN401 - of that type
    """Return a file's value read as a flag's words would be; raises ValueError.

    >>> read_value(tuple[int, ...], [1, 2])
    (1, 2)
    """
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        try:
            return tyro.cli(kind, args=_words(value), config=MARKERS, registry=registry())
        except SystemExit:
            raise ValueError(f"{value!r} is not of the kind asked for") from None


def _words(value: object) -> list[str]:
    """Return a file's value as the words of a command line."""
    if isinstance(value, list):
        return [word for each in value for word in _words(each)]
    if isinstance(value, dict):
        return [f"{key}={each}" for key, each in value.items()]
    return [str(value)]


def registry() -> ConstructorRegistry:
    """Return tyro's rules and ours: a table of texts is written KEY=VALUE KEY=VALUE."""
    rules = ConstructorRegistry()

    def text_table(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec | None:
        if get_origin(info.type) is not dict or get_args(info.type) != (str, str):
            return None
        return PrimitiveConstructorSpec(
            nargs="*",
            metavar="[KEY=VALUE ...]",
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


def nested(kind: Any) -> type | None:  # noqa: ANN401 - a type form
    """Return the dataclass that a field's type is, None for any other."""
    inner = get_args(kind)[0] if get_origin(kind) is Annotated else kind
    return inner if isinstance(inner, type) and dataclasses.is_dataclass(inner) else None


def _flag(kind: Any, name: str) -> str:  # noqa: ANN401 - a type form
    """Return the name a field goes by on the command line and in files."""
    marks: tuple[Any, ...] = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((mark.name for mark in marks if isinstance(mark, type(FLAT)) and mark.name), name)
