"""Configuration: frozen dataclasses; file < flags over defaults; every problem reported at once."""

import dataclasses
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from collegium.core.errors import ConfigError
from collegium.core.tables import nearest

Config = TypeVar("Config")


def read_toml(path: Path) -> dict[str, Any]:
    """Return the table in a TOML file; raises ConfigError when it is missing or not TOML."""
    try:
        return tomllib.loads(path.read_text())
    except FileNotFoundError as error:
        raise ConfigError(f"there is no configuration file {path}.") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path} is not TOML: {error}.") from error


def replace_fields(config: Config, values: Mapping[str, Any], *, where: str) -> Config:
    """Return the dataclass with these values; raises ConfigError with all unknown keys and their nearest names.

    >>> from collegium.core.cards import Source
    >>> replace_fields(Source("a"), {"licence": "MIT"}, where="run.toml")
    Source(name='a', licence='MIT', digest='')
    """
    known = [each.name for each in dataclasses.fields(config)]  # pyright: ignore[reportArgumentType]
    values = {key.replace("-", "_"): value for key, value in values.items()}
    unknown = [f"unknown key {key!r}. {nearest(key, known)}" for key in values if key not in known]
    if unknown:
        raise ConfigError(f"{where}: " + " ".join(unknown))
    return dataclasses.replace(config, **values)  # pyright: ignore[reportArgumentType, reportCallIssue]
