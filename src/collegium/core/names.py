"""Names of experts, routers and models: short, plain, and never a path."""

import re

from collegium.core.errors import NameTaken
from collegium.core.routing import BASE

NAME_PATTERN = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


FITTED_ROUTERS = ("classifier", "cluster", "cached_prior")
"""The names that routers fitted on texts are kept under: one name, one thing."""

FITTED_GATES = ("phatgoose", "xlora")
"""The names that gates fitted through the base are kept under."""


def is_name(name: str) -> bool:
    """Return whether this may name something in a library.

    >>> is_name("law-2024"), is_name("../law"), is_name("base")
    (True, False, False)
    """
    return bool(NAME_PATTERN.fullmatch(name)) and name != BASE


def check_name(name: str, *, what: str = "expert") -> str:
    """Return the name; raises NameTaken when it is reserved, empty, too long or has path parts.

    what: what is to be named; a fitted router's own name is for nothing but a `router`.

    >>> check_name("law")
    'law'
    """
    if name == BASE:
        raise NameTaken(f"{BASE!r} is the base model's own name; give the {what} another one.")
    if not isinstance(name, str) or not NAME_PATTERN.fullmatch(name):
        raise NameTaken(
            f"the name of every {what} has 1 to 64 letters, digits, dots, dashes or underscores and starts with a "
            f"letter or digit, got {name!r}. Names never have path parts."
        )
    if name in (*FITTED_ROUTERS, *FITTED_GATES) and what != "router":
        raise NameTaken(f"{name!r} is the name of a router that is fitted on texts; give the {what} another one.")
    return name
