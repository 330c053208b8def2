"""Budgets: steps, tokens or seconds, resolved into steps before a fit begins, so that a run can be repeated."""

import math

from collegium.core.errors import ConfigError


def steps_of_budget(
    *,
    tokens_per_step: int,
    steps: int | None = None,
    tokens: int | None = None,
    seconds: float | None = None,
    tokens_per_second: float | None = None,
) -> int:
    """Return how many steps the smallest of the budgets given allows, at least one.

    A budget of seconds needs the measured speed; the loop itself never looks at a clock.

    >>> steps_of_budget(tokens_per_step=512, tokens=10_000, seconds=60.0, tokens_per_second=100.0)
    11
    """
    if seconds is not None and not tokens_per_second:
        raise ConfigError("a budget of seconds needs a measured speed: give tokens_per_second.")
    bounds = [
        bound
        for bound in (
            steps,
            None if tokens is None else tokens / tokens_per_step,
            None if seconds is None else seconds * (tokens_per_second or 0.0) / tokens_per_step,
        )
        if bound is not None
    ]
    if not bounds or tokens_per_step < 1:
        raise ConfigError("a budget is at least one of steps, tokens or seconds, and tokens_per_step is at least 1.")
    return max(1, math.floor(min(bounds)))
