"""Charts as SVG text, with one colour per expert throughout."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Bounds = tuple[float, float]

_PALETTE = (
    "#3b6fb6",
    "#d9822b",
    "#4a9a62",
    "#b5485d",
    "#7b5ea7",
    "#8c6d4f",
    "#c26fa8",
    "#6b7680",
    "#a8a23a",
    "#3aa3a8",
)
_MARKS = ("o", "s", "^", "D")
_INK = "#22303c"
_PAPER = "#ffffff"


def expert_colours(experts: Sequence[str]) -> dict[str, str]:
    """Return a colour for each expert; the base is grey.

    >>> expert_colours(["law"])["law"]
    '#3b6fb6'
    """
    colours = {name: _PALETTE[place % len(_PALETTE)] for place, name in enumerate(experts)}
    return {**colours, "base": "#9aa5af"}


def _new(width: float, height: float) -> "tuple[Figure, Axes]":
    import matplotlib as mpl

    mpl.use("svg")
    from matplotlib import pyplot

    pyplot.rcParams.update(
        {"font.size": 9, "svg.fonttype": "none", "svg.hashsalt": "collegium", "axes.edgecolor": _INK}
    )
    return pyplot.subplots(figsize=(width, height), layout="constrained")


def _svg(figure: "Figure") -> str:
    from matplotlib import pyplot

    buffer = io.StringIO()
    figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor=_PAPER)
    pyplot.close(figure)
    text = buffer.getvalue()
    return text[text.index("<svg") :]


def heat_map(
    rows: Mapping[str, Mapping[str, float]],
    *,
    intervals: Mapping[str, Mapping[str, Bounds]],
    title: str,
) -> str:
    """Return perplexity by model (rows) and domain (columns); colour = change against the first row."""
    names, domains = list(rows), list(next(iter(rows.values())))
    first = rows[names[0]]
    figure, axes = _new(2.2 + 1.45 * len(domains), 0.9 + 0.52 * len(names))
    change = [[rows[name][domain] / first[domain] - 1 for domain in domains] for name in names]
    axes.imshow(change, cmap="RdYlGn_r", vmin=-0.35, vmax=0.35, aspect="auto")
    for y, name in enumerate(names):
        for x, domain in enumerate(domains):
            low, high = intervals.get(name, {}).get(domain, (float("nan"), float("nan")))
            label = f"{rows[name][domain]:.1f}"
            spread = f"{low:.1f} to {high:.1f}" if low == low and abs(high) < 1e9 else ""
            _cell(axes, x, y, label, spread)
    _ticks(axes, domains, names)
    axes.set_title(title, loc="left", color=_INK)
    return _svg(figure)


def share_map(rows: Mapping[str, Mapping[str, float | None]], *, title: str) -> str:
    """Return shares between 0 and 1 by row and column; colour = the share, a missing one is a dash."""
    names, columns = list(rows), list(next(iter(rows.values())))
    figure, axes = _new(2.2 + 1.1 * len(columns), 0.9 + 0.36 * len(names))
    values = [[float("nan") if (value := rows[name][each]) is None else value for each in columns] for name in names]
    axes.imshow(values, cmap="RdYlGn", vmin=0.0, vmax=1.0, aspect="auto")
    for y, row in enumerate(values):
        for x, value in enumerate(row):
            told = "-" if value != value else f"{value:.2f}"
            axes.text(x, y, told, ha="center", va="center", color=_INK)
    _ticks(axes, columns, names)
    axes.set_title(title, loc="left", color=_INK)
    return _svg(figure)


def _cell(axes: "Axes", x: int, y: int, label: str, spread: str) -> None:
    axes.text(x, y - 0.1, label, ha="center", va="center", color=_INK, fontweight="bold")
    axes.text(x, y + 0.27, spread, ha="center", va="center", color=_INK, fontsize=6.5)


def _ticks(axes: "Axes", columns: Sequence[str], rows: Sequence[str]) -> None:
    axes.set_xticks(range(len(columns)), columns)
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(length=0, top=True, bottom=False, labeltop=True, labelbottom=False)


def learning_curves(curves: Mapping[str, Sequence[tuple[int, float]]], *, title: str) -> str:
    """Return held-out loss (nats a token) against tokens trained, one line per expert."""
    figure, axes = _new(6.2, 3.0)
    colours = expert_colours(list(curves))
    for name, points in curves.items():
        xs, ys = [x for x, _ in points], [y for _, y in points]
        axes.plot(xs, ys, marker="o", markersize=3, color=colours[name], label=name)
    axes.set_xlabel("tokens trained")
    axes.set_ylabel("held-out nats a token")
    if curves:
        axes.legend(frameon=False)
    axes.set_title(title, loc="left", color=_INK)
    return _svg(figure)


def line_chart(
    curves: Mapping[str, Sequence[tuple[float, float]]],
    *,
    x: str,
    y: str,
    title: str,
    bands: Mapping[str, Sequence[Bounds]] | None = None,
) -> str:
    """Return lines over something that grows, each with its band where it has one."""
    figure, axes = _new(6.2, 3.0)
    colours = expert_colours(list(curves))
    for name, points in curves.items():
        xs, ys = [place for place, _ in points], [value for _, value in points]
        axes.plot(xs, ys, marker="o", markersize=2.5, color=colours[name], label=name)
        if bands and name in bands:
            low, high = zip(*bands[name], strict=True)
            axes.fill_between(xs, low, high, color=colours[name], alpha=0.15, linewidth=0)
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=8)
    axes.set_title(title, loc="left", color=_INK)
    return _svg(figure)


def bar_chart(groups: Mapping[str, Mapping[str, float]], *, title: str, unit: str) -> str:
    """Return grouped bars: for each domain one bar per model."""
    names = list(groups)
    domains = list(next(iter(groups.values())))
    figure, axes = _new(6.2, 2.8)
    width = 0.8 / len(names)
    shades = ("#9aa5af", "#3b6fb6", "#4a9a62", "#d9822b", "#7b5ea7", "#b5485d")
    for place, name in enumerate(names):
        xs = [x + (place - (len(names) - 1) / 2) * width for x in range(len(domains))]
        values = [groups[name][domain] for domain in domains]
        axes.bar(xs, values, width * 0.92, label=name, color=shades[place % len(shades)])
    axes.set_xticks(range(len(domains)), domains)
    axes.set_ylabel(unit)
    axes.margins(y=0.18)
    axes.legend(frameon=False, ncols=min(4, len(names)), fontsize=8, loc="upper left")
    axes.set_title(title, loc="left", color=_INK)
    return _svg(figure)


def cost_chart(points: Mapping[str, tuple[float, float]], *, title: str) -> str:
    """Return mean perplexity against milliseconds a token, one point per composition, named from the best down."""
    figure, axes = _new(8.2, 4.2)
    ordered = sorted(points.items(), key=lambda item: item[1][1])
    for place, (name, (milliseconds, quality)) in enumerate(ordered):
        colour, mark = _PALETTE[place % len(_PALETTE)], _MARKS[place // len(_PALETTE) % len(_MARKS)]
        axes.scatter([milliseconds], [quality], color=colour, marker=mark, zorder=3, label=f"{name}  {quality:.2f}")
    axes.legend(frameon=False, fontsize=7.5, loc="center left", bbox_to_anchor=(1.01, 0.5))
    axes.set_xlabel("milliseconds a scored token")
    axes.set_ylabel("mean perplexity over domains")
    axes.grid(color="#e3e8ec", zorder=0)
    axes.margins(x=0.08, y=0.1)
    axes.set_title(title, loc="left", color=_INK)
    return _svg(figure)
