"""The verdict rule: what an interval, a direction and a margin say."""

from collections.abc import Iterable
from typing import Literal

import torch

from collegium.ops.intervals import Interval, student_interval

Direction = Literal["above", "below", "law"]
Verdict = Literal["holds", "fails", "not shown"]

DIRECTIONS: tuple[Direction, ...] = ("above", "below", "law")
VERDICTS: tuple[Verdict, ...] = ("holds", "fails", "not shown")


def seed_interval(values: Iterable[float]) -> Interval:
    """Return the 95 % interval of a metric that was measured once per seed."""
    return student_interval(torch.tensor(list(values), dtype=torch.float64))


def judge(values: Iterable[float], *, direction: Direction, margin: float) -> Verdict:
    """Return the verdict on one metric, measured once per seed.

    above: holds if the whole interval lies above the margin, fails if the whole of it lies below.
    below: the other way round.
    law:   an exact statement: holds if no seed's value exceeds the margin (a tolerance), else fails.

    With one seed the interval has no bounds, so a measured claim is `not shown`.

    >>> judge([1.0, 1.1, 0.9], direction="above", margin=0.0), judge([1.0], direction="above", margin=0.0)
    ('holds', 'not shown')
    """
    values = list(values)
    if direction == "law":
        return "holds" if all(value <= margin for value in values) else "fails"
    interval = seed_interval(values)
    beyond, short = interval.low > margin, interval.high < margin
    if direction == "below":
        beyond, short = short, beyond
    return "holds" if beyond else "fails" if short else "not shown"


def together(verdicts: Iterable[Verdict]) -> Verdict:
    """Return the verdict on a claim from those on its parts: one that fails decides, then one not shown.

    >>> together(["holds", "not shown"])
    'not shown'
    """
    verdicts = list(verdicts)
    if "fails" in verdicts:
        return "fails"
    return "holds" if verdicts and all(each == "holds" for each in verdicts) else "not shown"
