"""The report's page: plain sections around charts and tables."""

import importlib.resources
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class ColouredText:
    """A text in pieces, each with who spoke it: `share` is the speaker's share, shown as strength of colour."""

    title: str
    pieces: Sequence[tuple[str, str, float]]


@dataclass(frozen=True)
class Report:
    """What the page shows.

    facts: label -> sentence, at the top. charts: (heading, what to see, SVG). texts: coloured samples.
    tables: (heading, what to see, column names, rows). commands: what to try next.
    """

    title: str
    summary: str
    facts: Mapping[str, str]
    charts: Sequence[tuple[str, str, str]]
    texts: Sequence[ColouredText]
    tables: Sequence[tuple[str, str, Sequence[str], Sequence[Sequence[Any]]]]
    commands: Sequence[str]
    colours: Mapping[str, str] = field(default_factory=dict)


def number_text(value: float | None) -> str:
    """Return a number with three digits after the point, a dash for one that is missing.

    >>> number_text(0.5), number_text(None)
    ('0.500', '-')
    """
    return "-" if value is None else f"{value:.3f}"


def render(report: Report) -> str:
    """Return the report as one HTML file that needs nothing else."""
    from jinja2 import Environment, StrictUndefined

    source = importlib.resources.files("collegium.recipes.report").joinpath("page.html").read_text()
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return environment.from_string(source).render(report=report)
