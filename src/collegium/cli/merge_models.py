"""`library merge-models`: what was merged, and how large it is."""

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import merge_models
from collegium.recipes.merge_models import MergeModelsConfig


def run_merge_models(config: MergeModelsConfig, screen: Screen) -> Outcome:
    """Return what lies where."""
    found = merge_models.run(config, watch=screen).result
    told = "wrote" if found["written"] else "would write"
    screen.say(
        f"{told} {found['tensors']} tensors, {found['parameters']:,} parameters, {found['bytes'] / 1e6:,.1f} MB to "
        f"{found['folder']}; held at once at most {found['working_bytes'] / 1e6:,.1f} MB beside mapped files"
    )
    return Outcome(found)


MERGE_MODELS = Command(MergeModelsConfig, run_merge_models)
