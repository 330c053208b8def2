"""`align run / prefer / eval / sample`: moving a model to a reward or to a distribution."""

from typing import Any

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.aligning import evaluate, prefer, run, sample
from collegium.recipes.aligning.evaluate import AlignEvalConfig
from collegium.recipes.aligning.page import metric_rows
from collegium.recipes.aligning.prefer import AlignPreferConfig
from collegium.recipes.aligning.run import AlignRunConfig
from collegium.recipes.aligning.sample import AlignSampleConfig


def run_align(config: AlignRunConfig, screen: Screen) -> Outcome:
    """Return the object of `align run --json`."""
    found = run.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    screen.table(("", "before", "after"), metric_rows(found))
    screen.say(f"{found['samples_seen']:,} texts in {found['seconds'] / 60:.1f} minutes; report: {found['report']}")
    screen.say(f"next: collegium generate '...' --model {found['library']}#{found['name']}")
    return Outcome(found)


def run_prefer(config: AlignPreferConfig, screen: Screen) -> Outcome:
    """Return the object of `align prefer --json`."""
    found = prefer.run(config, watch=screen).result
    screen.table(("", "before", "after"), metric_rows(found))
    screen.say(f"{found['pairs_seen']:,} pairs in {found['seconds'] / 60:.1f} minutes; report: {found['report']}")
    screen.say(f"next: collegium generate '...' --model {found['library']}#{found['name']}")
    return Outcome(found)


def run_eval(config: AlignEvalConfig, screen: Screen) -> Outcome:
    """Return the metrics of the original and of the policy."""
    found = evaluate.run(config, watch=screen).result
    screen.table(("", "original", "policy"), metric_rows(found))
    return Outcome(found)


def run_sample(config: AlignSampleConfig, screen: Screen) -> Outcome:
    """Return the texts, a row each, and how near their distribution is to the target's."""
    found: dict[str, Any] = sample.run(config, watch=screen).result
    for row in found["samples"]:
        screen.say(repr(row["text"]))
    near = "" if found["tv"] is None else f"; total variation from the target about {found['tv']:.3f}"
    bound = f"; at most {found['kl']:.2f} nats from the original" if found["way"] == "best of n" else ""
    screen.say(f"{len(found['samples'])} of {found['drawn']:,} texts kept by {found['way']}{near}{bound}")
    return Outcome(found, found["samples"])


ALIGN = Group(
    "Move a model to a reward, to a distribution or to preferences; sample from a target.",
    {
        "run": Command(AlignRunConfig, run_align, memory_flag="--batch", resumes=True),
        "prefer": Command(AlignPreferConfig, run_prefer, memory_flag="--batch", resumes=True),
        "eval": Command(AlignEvalConfig, run_eval, memory_flag="--batch"),
        "sample": Command(AlignSampleConfig, run_sample, memory_flag="--batch"),
    },
)
