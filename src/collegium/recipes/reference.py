"""The one way to name a model: REF.

REF = BASE | PATH | hf:owner/name@revision | LIB#NAME
    | LIB[?experts=a,b&router=posterior&compose=ensemble&top_k=2&prune=1e-3]

A name such as `smollm2-135m` always means the same file; a folder of that name is written `./smollm2-135m`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from collegium.core.errors import ConfigError
from collegium.core.routing import BASE
from collegium.core.tables import nearest

COMPOSITIONS = ("ensemble", "mix", "merge")
"""What `compose=` may say."""
KEYS = ("experts", "router", "compose", "top_k", "prune")
"""What may follow a library's question mark."""
GRAMMAR = "LIB?experts=a,b&router=posterior&compose=ensemble&top_k=2&prune=1e-3 or LIB#NAME"
_MANIFEST = "collegium.json"


@dataclass(frozen=True)
class Reference:
    """A model reference, taken apart; nothing is loaded and no name is looked up.

    base:    a base's name, folder or hub address; None when a library is meant.
    library: the library's folder; None for a base.
    member:  the one expert, policy or other thing of the library (`LIB#NAME`).
    experts: the experts chosen; empty = all. What is None is the library's default.
    """

    base: str | None = None
    library: str | None = None
    member: str | None = None
    experts: tuple[str, ...] = ()
    router: str | None = None
    compose: str | None = None
    top_k: int | None = None
    prune: float | None = None

    def __str__(self) -> str:
        """Return the reference as it is written.

        >>> str(Reference(library="lib", experts=("law", "code"), top_k=2))
        'lib?experts=law,code&top_k=2'
        """
        if self.base is not None:
            return self.base
        parts = {
            "experts": ",".join(self.experts),
            "router": self.router,
            "compose": self.compose,
            "top_k": self.top_k,
            "prune": self.prune,
        }
        query = "&".join(f"{key}={value}" for key, value in parts.items() if value not in (None, ""))
        ending = f"#{self.member}" if self.member else f"?{query}" if query else ""
        return f"{self.library}{ending}"


def is_library(path: str) -> bool:
    """Return whether a library lies there."""
    return (Path(path).expanduser() / _MANIFEST).is_file()


def parse_reference(text: str, *, library_at: Callable[[str], bool] = is_library) -> Reference:
    """Return what a model reference says; raises ConfigError with every part that cannot be understood.

    library_at: tells a library's folder from a base's, asked only where the text itself does not tell.

    >>> found = parse_reference("lib?experts=law,code&router=posterior")
    >>> found.library, found.experts, found.router, found.compose
    ('lib', ('law', 'code'), 'posterior', None)
    """
    if not text.strip():
        raise ConfigError(f"a model reference is a base, a folder, hf:owner/name@revision, {GRAMMAR}; got nothing.")
    if text.startswith("hf:"):
        return Reference(base=text)
    if "#" in text:
        return _member(text)
    place, mark, query = text.partition("?")
    if not mark:
        return Reference(library=text) if library_at(text) else Reference(base=text)
    if not place:
        raise ConfigError(f"a question mark follows a library's folder ({GRAMMAR}); got {text!r}.")
    return _selection(text, place, query)


def _member(text: str) -> Reference:
    place, _, name = text.partition("#")
    if "?" in text:
        raise ConfigError(
            f"`#NAME` names one thing of a library and `?...` composes several; use one of the two, got {text!r}."
        )
    if not place or not name or "#" in name:
        raise ConfigError(f"a part of a library is named LIB#NAME, got {text!r}.")
    return Reference(library=place, member=name)


def _selection(text: str, place: str, query: str) -> Reference:
    """Return the reference of LIB?..., reporting all of its problems at once."""
    values: dict[str, str] = {}
    problems = []
    for part in query.split("&"):
        key, _, value = part.partition("=")
        if key not in KEYS:
            problems.append(f"unknown key {key!r}. {nearest(key, KEYS)}")
        elif key in values:
            problems.append(f"{key!r} is given twice.")
        elif not value:
            problems.append(f"{key!r} has no value.")
        values.setdefault(key, value)
    experts = tuple(values["experts"].split(",")) if values.get("experts") else ()
    if len(set(experts)) != len(experts) or not all(experts):
        problems.append(f"experts are names separated by commas, each once; got {values['experts']!r}.")
    if BASE in experts:
        problems.append(f"{BASE!r} is always there and is not chosen; leave it out of experts.")
    compose, top_k = values.get("compose"), values.get("top_k")
    if compose and compose not in COMPOSITIONS:
        problems.append(f"unknown composition {compose!r}. {nearest(compose, COMPOSITIONS)}")
    if top_k and not (top_k.isascii() and top_k.isdigit() and int(top_k) >= 1):
        problems.append(f"top_k is a whole number of experts, at least 1; got {top_k!r}.")
    prune = _fraction(values.get("prune"), problems)
    if problems:
        raise ConfigError(f"{text!r}: " + " ".join(problems) + f" A composition is written {GRAMMAR}.")
    return Reference(
        library=place,
        experts=experts,
        router=values.get("router"),
        compose=compose,
        top_k=int(top_k) if top_k else None,
        prune=prune,
    )


def _fraction(text: str | None, problems: list[str]) -> float | None:
    """Return the posterior that a text says; adds to the problems where it says none."""
    if not text:
        return None
    try:
        said = float(text)
    except ValueError:
        said = math.nan
    if not 0 <= said < 0.5:
        problems.append(f"prune is a posterior from 0 to below 0.5, such as 1e-3; got {text!r}.")
    return said
