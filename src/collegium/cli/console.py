"""What a person sees: lines, tables and progress bars, in colour where the terminal has it."""

import re
import sys
import time
from collections.abc import Callable, Iterable, Sequence

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

_REMARK_SECONDS = 30.0
_PIPE_COLUMNS = 10_000
_CONTROLS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""Control characters but tab and line break."""


class Screen:
    """Lines and tables for a person; a `Watch` for recipes.

    With `aside` everything goes to standard error, which leaves standard output to JSON. Bars appear on a terminal
    alone; elsewhere (a log, a pipe) long work is remarked upon every half minute.
    """

    def __init__(self, *, aside: bool = False) -> None:
        """Open the consoles; NO_COLOR and the kind of terminal are rich's business."""
        self.console = Console(file=sys.stderr if aside else sys.stdout, highlight=False, soft_wrap=True)
        self.errors = Console(file=sys.stderr, highlight=False, soft_wrap=True)
        self._progress: Progress | None = None

    def __enter__(self) -> "Screen":
        """Return the screen."""
        return self

    def __exit__(self, *exception: object) -> None:
        """Take the bars away, whatever happened."""
        self._end_bars()

    def say(self, text: str) -> None:
        """Show a line as it is, without markup."""
        self.console.print(Text(_plain(text)))

    def write(self, text: str) -> None:
        """Show a piece of text at once, without a line break."""
        self.console.print(Text(_plain(text)), end="")
        self.console.file.flush()

    def fail(self, text: str) -> None:
        """Show a mistake on standard error, its first word in red."""
        self.errors.print(Text.assemble(("error:", "bold red"), " ", _plain(text)))

    def table(self, columns: Sequence[str], rows: Iterable[Sequence[object]], *, title: str | None = None) -> None:
        """Show a table; columns that hold only numbers are set to the right, a missing value is a dash."""
        cells = [[_cell(value) for value in row] for row in rows]
        table = Table(title=title, title_justify="left", box=None, pad_edge=False, header_style="bold")
        for place, name in enumerate(columns):
            numeric = all(_is_number(row[place]) for row in cells) and bool(cells)
            table.add_column(name, justify="right" if numeric else "left", no_wrap=numeric)
        for row in cells:
            table.add_row(*(Text(cell) for cell in row))
        if self.console.is_terminal:
            self.console.print(table)
        else:  # a pipe gets whole rows, however long
            Console(file=self.console.file, highlight=False, width=_PIPE_COLUMNS).print(table)

    def begin(self, label: str, total: int) -> Callable[[int], None]:
        """Start a bar of `total` units and return its updater, which is told how much is done so far."""
        if not self.errors.is_terminal:
            return _Remarks(self.errors, label, total)
        if self._progress is None:
            self._progress = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeRemainingColumn(),
                console=self.errors,
                transient=True,
            )
            self._progress.start()
        progress, task = self._progress, self._progress.add_task(label, total=max(total, 1))

        def update(done: int) -> None:
            progress.update(task, completed=done)
            if done >= total:
                self._finish(progress, task)

        return update

    def _finish(self, progress: Progress, task: TaskID) -> None:
        progress.update(task, visible=False)
        if progress is self._progress and progress.finished:
            self._end_bars()

    def _end_bars(self) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress = None


class _Remarks:
    """An updater that writes a line every half minute: how much is done, and how long the rest takes at that pace."""

    def __init__(self, console: Console, label: str, total: int) -> None:
        self.console, self.label, self.total = console, label, total
        self.began = self.next_at = 0.0
        self.first: int | None = None

    def __call__(self, done: int) -> None:
        now = time.monotonic()
        if self.first is None:  # work that goes on from an earlier run does not begin at nothing
            self.first, self.began, self.next_at = done, now, now + _REMARK_SECONDS
        if now >= self.next_at and self.first < done < self.total:
            self.next_at = now + _REMARK_SECONDS
            left = (now - self.began) * (self.total - done) / (done - self.first)
            self.console.print(Text(f"{self.label}: {done:,} of {self.total:,}, {_duration(left)} left"))


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} seconds" if seconds < 90 else f"{seconds / 60:.0f} minutes"


def _plain(text: str) -> str:
    """Return a text without what would command the terminal: it may come from a stranger's card, or from a model."""
    return _CONTROLS.sub("", text)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else _plain(str(value))


def _is_number(cell: str) -> bool:
    return cell == "-" or cell.replace(",", "").replace(".", "", 1).lstrip("-").removesuffix("%").rstrip().isdigit()
