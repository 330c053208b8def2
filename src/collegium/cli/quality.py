"""`eval` and `compare`: how good a composition is, and which is best."""

from collections.abc import Mapping
from typing import Any

from collegium.cli.command import Command
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.recipes import compare, evaluate
from collegium.recipes.compare import CompareConfig
from collegium.recipes.evaluate import EvalConfig


def run_eval(config: EvalConfig, screen: Screen) -> Outcome:
    """Return the object of `eval --json`; its rows are models, a perplexity for each domain."""
    found = evaluate.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    return Outcome(found, show_evaluation(found, screen))


def show_evaluation(found: Mapping[str, Any], screen: Screen) -> list[dict[str, Any]]:
    """Show base, experts, composition and oracle on every domain; return them as rows."""
    domains = list(found["base"])
    perplexity = {"base": found["base"], **found["matrix"], "composed": found["composed"], "oracle": found["oracle"]}
    rows = [{"model": name, "perplexity": dict(row)} for name, row in perplexity.items()]
    cells = [[name, *(_number(row.get(domain)) for domain in domains)] for name, row in perplexity.items()]
    screen.table(("perplexity", *domains), cells)
    routing = found["routing"]
    if any(value is not None for value in routing.values()):
        own = None if routing["accuracy"] is None else 100 * routing["accuracy"]
        screen.say(
            f"routing: {_number(own, digits=1)} % of windows end on their own expert, "
            f"{_number(routing['regret_nats_per_token'], digits=4)} nats a token behind the oracle, "
            f"calibration error {_number(routing['ece'], digits=3)}"
        )
    if found.get("answers"):
        show_answers(found["answers"], screen)
    if found.get("skipped_documents"):
        screen.say(f"{found['skipped_documents']} documents were left out: experts were made with their domain's split")
    return rows


def show_answers(found: Mapping[str, Any], screen: Screen) -> None:
    """Show what was made of the answers in each domain: every metric's mean, with its 95 % interval."""
    names = [name for name, value in next(iter(found.values())).items() if isinstance(value, Mapping)]
    cells = [[domain, row["rows"], *(_mean(row[name]) for name in names)] for domain, row in found.items()]
    screen.table(("answers", "rows", *names), cells)


def _mean(metric: Mapping[str, Any]) -> str:
    bounds = metric["interval"]
    return _number(metric["mean"]) + ("" if bounds is None else f" ({_number(bounds[0])} to {_number(bounds[1])})")


def run_compare(config: CompareConfig, screen: Screen) -> Outcome:
    """Return a row for each composition, and which became the library's default."""
    found = compare.run(config, watch=screen).result
    if "plan" in found:
        return Outcome(found)
    show_columns(found["rows"], screen)
    if found["default_set"]:
        screen.say(f"the library's default is now: {found['best']}")
    elif found["best"] is None:
        screen.say("only the base is within the slowdown; the library's default is as it was")
    else:
        screen.say(f"the best within the slowdown is {found['best']}; the library's default is as it was")
    return Outcome(found, found["rows"])


def show_columns(rows: list[dict[str, Any]], screen: Screen) -> None:
    """Show compositions with quality, speed and memory."""
    domains = list(rows[0]["perplexity"])
    cells = [
        [
            row["name"],
            *(_number(row["perplexity"].get(domain)) for domain in domains),
            _number(row["experts_evaluated"]),
            _number(row["ms_per_token"]),
            _number(row["resident_mb"], digits=0),
        ]
        for row in rows
    ]
    screen.table(("perplexity", *domains, "experts", "ms a token", "MB"), cells)


def _number(value: float | None, *, digits: int = 2) -> str:
    return "-" if value is None else f"{value:,.{digits}f}"


EVAL = Command(EvalConfig, run_eval, memory_flag="--window")
COMPARE = Command(CompareConfig, run_compare, memory_flag="--window")
