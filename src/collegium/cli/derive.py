"""`library derive`: what follows from a library's experts."""

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import derive
from collegium.recipes.derive import DeriveConfig


def run_derive(config: DeriveConfig, screen: Screen) -> Outcome:
    """Return what was derived; the rows of clusters are their members."""
    found = derive.run(config, watch=screen).result
    rows = [{"cluster": name, "experts": members} for name, members in found.get("clusters", {}).items()]
    return Outcome(found, rows)


DERIVE = Command(DeriveConfig, run_derive, memory_flag="--batch", resumes=True)
