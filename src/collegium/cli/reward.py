"""`reward fit / eval / score / grow / drop`: reward models of several domains, joint and routed."""

from typing import Any

from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes.rewarding import evaluate, fit, grow, score
from collegium.recipes.rewarding.evaluate import RewardEvalConfig
from collegium.recipes.rewarding.fit import RewardFitConfig
from collegium.recipes.rewarding.grow import RewardDropConfig, RewardGrowConfig
from collegium.recipes.rewarding.page import accuracy_rows, facts_of
from collegium.recipes.rewarding.score import RewardScoreConfig


def run_fit(config: RewardFitConfig, screen: Screen) -> Outcome:
    """Return what was fitted, a row for each member."""
    found = fit.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows = [{"member": name, **figures} for name, figures in found["members"].items()]
    cells = [
        (row["member"], row.get("pairs", row.get("prompts")), row.get("dev_loss_before"), row.get("dev_loss"))
        for row in rows
    ]
    screen.table(("member", "examples", "dev loss before", "after"), cells)
    screen.say(
        f"{found['parameters_resident'] / 1e6:.2f} million parameters in memory, "
        f"{found['parameters_active'] / 1e6:.2f} million read a text"
    )
    return Outcome(found, rows)


def run_eval(config: RewardEvalConfig, screen: Screen) -> Outcome:
    """Return the object of `reward eval --json`; its rows are judges and routes, an accuracy for each domain."""
    found = evaluate.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    domains = list(found["accuracy"])
    rows = [{"who": who, "accuracy": dict(zip(domains, row, strict=True))} for who, row in accuracy_rows(found).items()]
    screen.table(("accuracy", *domains), [[row["who"], *map(_number, row["accuracy"].values())] for row in rows])
    for label, sentence in facts_of(found).items():
        screen.say(f"{label.lower()}: {sentence}")
    skipped = sum(found["skipped"].values())
    if skipped:
        screen.say(f"{skipped} pairs were left out: members were fitted on their prompts")
    return Outcome(found, rows)


def run_score(config: RewardScoreConfig, screen: Screen) -> Outcome:
    """Return each row with its reward."""
    found = score.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    rows: list[dict[str, Any]] = found["rows"]
    shown = [(_start(row["prompt"]), _start(row["completion"]), _number(row["reward"]), row["judge"]) for row in rows]
    screen.table(("prompt", "completion", "reward", "judge"), shown[:_ROWS_SHOWN])
    if len(rows) > _ROWS_SHOWN:
        screen.say(f"... and {len(rows) - _ROWS_SHOWN} more rows (--jsonl has all)")
    return Outcome(found, rows)


def run_grow(config: RewardGrowConfig, screen: Screen) -> Outcome:
    """Return which domains came and what moved."""
    return Outcome(grow.run_grow(config, watch=screen).result)


def run_drop(config: RewardDropConfig, screen: Screen) -> Outcome:
    """Return which domain left and what moved."""
    return Outcome(grow.run_drop(config, watch=screen).result)


_ROWS_SHOWN = 20


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _start(text: Any) -> str:  # noqa: ANN401 - a text or a chat
    told = text if isinstance(text, str) else " / ".join(each["content"] for each in text)
    return told if len(told) <= 48 else f"{told[:47]}…"


REWARD = Group(
    "Reward models of several domains: fit, judge, score, grow.",
    {
        "fit": Command(RewardFitConfig, run_fit, memory_flag="--batch", resumes=True),
        "eval": Command(RewardEvalConfig, run_eval, memory_flag="--threads"),
        "score": Command(RewardScoreConfig, run_score, memory_flag="--batch"),
        "grow": Command(RewardGrowConfig, run_grow, memory_flag="--threads", resumes=True),
        "drop": Command(RewardDropConfig, run_drop, memory_flag="--threads"),
    },
)
