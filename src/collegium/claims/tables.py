"""What every model of an experiment measured: one table a run, kept once for all claims that share it."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collegium.core.cards import content_hash, to_json
from collegium.core.errors import ConfigError
from collegium.core.files import write_text

Row = Mapping[str, Any]


def keep_table(rows: Sequence[Row], *, label: str, folder: Path) -> str:
    """Return the name of a table in `folder/tables`, "" for one without rows; equal rows are kept once."""
    if not rows:
        return ""
    name = f"{label}-{content_hash(list(rows))[:8]}"
    path = _path(name, folder)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_text(path, to_json(list(rows)))
    return name


def read_table(name: str, *, folder: Path) -> tuple[Row, ...]:
    """Return the rows of a table; raises ConfigError when it is missing or not what its name says."""
    path = _path(name, folder)
    if not path.exists():
        raise ConfigError(f"{path.name} is not among the tables of the results.")
    rows = json.loads(path.read_text())
    if not name.endswith(content_hash(rows)[:8]):
        raise ConfigError(f"{path.name} does not hold what was measured: its content has another hash than its name.")
    return tuple(rows)


def means(rows: Sequence[Row]) -> list[dict[str, str | float]]:
    """Return a row per model, its numbers averaged over seeds, those of a mapping under their own names.

    >>> means([{"model": "a", "seed": 0, "nats": 1.0}, {"model": "a", "seed": 1, "nats": 2.0}])
    [{'model': 'a', 'nats': 1.5}]
    """
    found: dict[tuple[str, ...], list[dict[str, float]]] = {}
    for row in rows:
        words = tuple(name for name, value in row.items() if isinstance(value, str))
        numbers: dict[str, float] = {
            name: value for name, value in row.items() if isinstance(value, int | float) and name != "seed"
        }
        for value in (each for each in row.values() if isinstance(each, Mapping)):
            numbers |= value
        found.setdefault(tuple(item for name in words for item in (name, row[name])), []).append(numbers)
    return [
        {
            **dict(zip(key[::2], key[1::2], strict=True)),
            **{name: math.fsum(each[name] for each in several) / len(several) for name in several[0]},
        }
        for key, several in found.items()
    ]


def table_lines(rows: Sequence[Row]) -> list[str]:
    """Return the means as lines of Markdown; a number that a model lacks is `-`."""
    averaged = means(rows)
    names = list(dict.fromkeys(name for row in averaged for name in row))
    names.sort(key=lambda name: not isinstance(averaged[0].get(name), str))
    heads = [name.replace("_mb", "_MB").replace("_", " ") for name in names]
    cells = [[_cell(row.get(name)) for name in names] for row in averaged]
    return [f"| {' | '.join(each)} |" for each in (heads, ["---"] * len(names), *cells)]


def _cell(value: str | float | None) -> str:
    if value is None or isinstance(value, str):
        return value or "-"
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def _path(name: str, folder: Path) -> Path:
    return folder / "tables" / f"{name}.json"
