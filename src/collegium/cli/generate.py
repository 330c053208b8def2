"""`generate`: text as it is written, and who spoke."""

from collections.abc import Mapping

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import generate
from collegium.recipes.generate import GenerateConfig


def run_generate(config: GenerateConfig, screen: Screen) -> Outcome:
    """Return the continuation and each expert's share in it."""

    def stream(number: int, text: str, shares: Mapping[str, float]) -> None:
        del number, shares
        screen.write(text)

    card = generate.run(config, watch=screen, stream=stream)
    screen.say("")
    speakers = card.result["speakers"]
    if speakers:
        screen.say("")
        screen.table(("who spoke", "share"), [(name, f"{100 * share:.1f} %") for name, share in speakers.items()])
    task = card.result.get("task")
    if task and task["probability"] is not None:
        screen.say(
            f"the prompt looks like {task['name']} ({100 * task['probability']:.0f} %); --task NAME says otherwise"
        )
    return Outcome(card.result)


GENERATE = Command(GenerateConfig, run_generate, memory_flag="--tokens")
