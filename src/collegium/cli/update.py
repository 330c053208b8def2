"""`library update`: what moved, what was left."""

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.updating import run as updating
from collegium.recipes.updating.run import UpdateConfig


def run_update(config: UpdateConfig, screen: Screen) -> Outcome:
    """Return what became of every expert that got documents; the rows are these experts."""
    found = updating.run(config, watch=screen).result
    rows = [{"expert": name, **row} for name, row in found["experts"].items()]
    columns = ("outcome", "documents", "tokens_seen", "perplexity_before", "perplexity_after", "seconds")
    if rows:
        cells = [[row["expert"], *(row.get(column) for column in columns)] for row in rows]
        screen.table(("expert", "outcome", "documents", "tokens seen", "perplexity before", "after", "seconds"), cells)
    else:
        screen.say("no document belongs to any expert; nothing was trained")
    screen.say(f"{len(found['untouched'])} other experts are as they were, by their checksums")
    return Outcome(found, rows)


UPDATE = Command(UpdateConfig, run_update, memory_flag="--batch", resumes=True)
