"""`library grow`: what became of every domain that arrived, and what moved."""

from typing import Any

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.growing.run import GrowConfig, run


def run_grow(config: GrowConfig, screen: Screen) -> Outcome:
    """Return what was decided and what moved; the rows are domains."""
    found = run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows: list[dict[str, Any]] = [{"domain": name, **row} for name, row in found["domains"].items()]
    cells = [[row["domain"], row["text"], *(f"{row[key]:.2f}" for key in ("base", "before", "after"))] for row in rows]
    if cells:
        screen.table(("domain", "text", "base", "before", "after"), cells)
    experts = found["experts"]
    told = [f"{key} {', '.join(experts[key])}" for key in ("new", "replaced", "removed") if experts[key]]
    screen.say(
        f"{'; '.join(told) or 'no expert came or went'}; {len(experts['untouched'])} untouched, their weights the same "
        f"to the bit; {found['tokens_trained']:,} tokens trained in {found['seconds']:.0f} s"
    )
    return Outcome(found, rows)


GROW = Command(GrowConfig, run_grow, memory_flag="--window", resumes=True)
