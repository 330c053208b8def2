"""`library export`: what was written, and how it is used."""

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import export
from collegium.recipes.export import ExportConfig


def run_export(config: ExportConfig, screen: Screen) -> Outcome:
    """Return what lies where."""
    found = export.run(config, watch=screen).result
    names = ", ".join(found["experts"])
    if config.dry_run:
        screen.say(f"would write {names} as {found['format']} to {found['out']}")
        return Outcome(found)
    screen.say(f"wrote {names} as {found['format']} to {found['out']} ({sum(found['files'].values()):,} bytes)")
    if "command" in found:
        screen.say(found["command"])
    return Outcome(found)


EXPORT = Command(ExportConfig, run_export)
