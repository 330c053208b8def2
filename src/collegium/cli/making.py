"""`demo`, `build` and `train`: from texts to a library of experts."""

from typing import Any

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.cli.quality import show_columns, show_evaluation
from collegium.recipes import build, demo, train
from collegium.recipes.build import BuildConfig
from collegium.recipes.demo import DemoConfig
from collegium.recipes.train import TrainConfig


def run_demo(config: DemoConfig, screen: Screen) -> Outcome:
    """Return what `build` found out on the demo texts."""
    return show_build(demo.run(config, watch=screen).result, screen)


def run_build(config: BuildConfig, screen: Screen) -> Outcome:
    """Return the object of `eval --json`, with seconds, discovered, removed and all compositions."""
    return show_build(build.run(config, watch=screen).result, screen)


def show_build(found: dict[str, Any], screen: Screen) -> Outcome:
    """Show what a build found out; a dry run has shown its plan already."""
    if "base" not in found:
        return Outcome(found)
    rows = show_evaluation(found, screen)
    screen.say("")
    show_columns([*found["columns"], *found["baselines"]], screen)
    screen.say("")
    if found["discovered"]:
        screen.say(f"clusters found without labels agree with the domains to NMI {found['discovered']['nmi']:.3f}")
    screen.say(f"an expert added and removed again: largest change {found['removed']['largest_change']}")
    screen.say(f"report: {found['report']}")
    screen.say("next:")
    for line in found["next"]:
        screen.say(f"  {line}")
    return Outcome(found, rows)


def run_train(config: TrainConfig, screen: Screen) -> Outcome:
    """Return what became of every domain."""
    found = train.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows = [{"expert": name, **figures} for name, figures in found["experts"].items()]
    if rows:
        columns = ("tokens_seen", "trained_parameters", "held_out_nats_before", "held_out_nats")
        cells = [[row["expert"], *(row.get(column) for column in columns)] for row in rows]
        screen.table(("expert", "tokens seen", "parameters", "held-out nats before", "after"), cells)
    return Outcome(found, rows)


DEMO = Command(DemoConfig, run_demo, memory_flag="--batch", resumes=True)
BUILD = Command(BuildConfig, run_build, memory_flag="--batch", resumes=True)
TRAIN = Command(TrainConfig, run_train, memory_flag="--batch", resumes=True)
