"""The table of routers, and a router named in text."""

import inspect
import types
import typing
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from collegium.core.errors import ConfigError
from collegium.core.protocols import RouterRecipe
from collegium.core.tables import Method, nearest
from collegium.routers.cached_prior import cached_prior
from collegium.routers.classifier import classifier
from collegium.routers.cluster import cluster
from collegium.routers.default import default
from collegium.routers.fixed import fixed
from collegium.routers.gates import GateRecipe, available_gates
from collegium.routers.oracle import oracle
from collegium.routers.posterior import posterior
from collegium.routers.uniform import uniform

Recipe = RouterRecipe | GateRecipe
"""A router, or gates, before they know their experts."""

ENTRY_POINTS = "collegium.routers"
"""The entry-point group in which outside packages name a `Method` that builds a recipe."""

ROUTERS: dict[str, Method] = {
    "uniform": Method(uniform, growth="exact", claims=("M2", "M11"), summary="everybody equally"),
    "fixed": Method(fixed, growth="exact", summary="the weights given; the rest goes to base"),
    "oracle": Method(oracle, growth="exact", summary="the best expert of the true domain; eval and compare alone"),
    "posterior": Method(
        posterior,
        paper="gururangan2022demix",
        growth="exact",
        claims=("M2", "M3", "M5", "M6"),
        summary="who predicted the text so far best",
    ),
    "cached_prior": Method(
        cached_prior,
        paper="gururangan2022demix",
        growth="exact",
        claims=("M4", "M8"),
        summary="the average posterior over held-out texts",
    ),
    "cluster": Method(
        cluster,
        paper="gururangan2023cbtm",
        growth="exact",
        claims=("M9", "M10", "M11"),
        summary="whose cluster the words so far are near",
    ),
    "classifier": Method(classifier, growth="exact", summary="whose texts the prompt looks like; may abstain"),
    "default": Method(default, growth="exact", summary="classifier on the prompt as prior, then posterior"),
}


def available() -> dict[str, Method]:
    """Return our routers and those that installed packages bring; raises ConfigError when two claim one name."""
    found = dict(ROUTERS)
    for point in entry_points(group=ENTRY_POINTS):
        method = point.load()
        if point.name in found or not isinstance(method, Method):
            fault = "a name that is taken" if point.name in found else f"a {type(method).__name__}, not a Method"
            raise ConfigError(f"entry point {point.value!r} of {ENTRY_POINTS!r} brings router {point.name!r}: {fault}.")
        found[point.name] = method
    return found


def parse(text: str) -> Recipe:
    """Return the router, or the gates, that `NAME` or `NAME:KEY=VALUE,...` names.

    Raises ConfigError on an unknown name or key, with the nearest, and on a value of the wrong kind.

    >>> parse("posterior:prior=cached_prior,decay=0.9").decay
    0.9
    >>> parse("fixed:law=0.7,code=0.3").weights
    {'law': 0.7, 'code': 0.3}
    >>> parse("arrow:top_k=2,temperature=1").top_k
    2
    """
    table = {**available_gates(), **available()}
    name, _, rest = text.partition(":")
    if name not in table:
        raise ConfigError(f"unknown router {name!r}. {nearest(name, table)}")
    if name == "oracle":
        raise ConfigError("oracle needs each text's true domain; `eval` and `compare` add it by themselves.")
    pairs = _pairs(rest, where=text)
    if name == "fixed":
        return fixed({expert: _number(value, where=text) for expert, value in pairs.items()})
    return table[name].build(**_arguments(table[name].build, pairs, where=text))


def _pairs(text: str, *, where: str) -> dict[str, str]:
    found: dict[str, str] = {}
    for piece in text.split(",") if text else ():
        key, equals, value = (part.strip() for part in piece.partition("="))
        if not (key and equals and value):
            raise ConfigError(f"router {where!r}: arguments are written NAME:KEY=VALUE,KEY=VALUE; got {piece!r}.")
        if key in found:
            raise ConfigError(f"router {where!r}: {key!r} is given twice, {found[key]} and {value}; leave one out.")
        found[key] = value
    return found


def _arguments(build: Callable[..., Any], pairs: Mapping[str, str], *, where: str) -> dict[str, Any]:
    known = inspect.signature(build).parameters
    hints = typing.get_type_hints(build)
    unknown = [f"unknown argument {key!r}. {nearest(key, known)}" for key in pairs if key not in known]
    if unknown:
        raise ConfigError(f"router {where!r}: " + " ".join(unknown))
    return {key: _value(value, hints.get(key, str), where=where) for key, value in pairs.items()}


def _value(value: str, kind: Any, *, where: str) -> Any:  # noqa: ANN401 - what the parameter's annotation says
    """Return the value as the parameter's type; a router as argument is named like any other."""
    union = typing.get_origin(kind) in (types.UnionType, typing.Union)
    kinds = typing.get_args(kind) if union else (kind,)
    if type(None) in kinds and value == "none":
        return None
    if RouterRecipe in kinds:
        recipe = parse(value)
        if not isinstance(recipe, RouterRecipe):
            raise ConfigError(f"router {where!r}: {value!r} names gates, which act inside the base; name a router.")
        return recipe
    for number in (int, float):
        if number in kinds:
            return _number(value, where=where, number=number)
    return value


def _number(value: str, *, where: str, number: type[int] | type[float] = float) -> Any:  # noqa: ANN401 - int or float
    try:
        return number(value)
    except ValueError as error:
        kind = "a whole number" if number is int else "a number"
        raise ConfigError(f"router {where!r}: {value!r} is not {kind}.") from error
