"""`claims run / list`: the ledger of claims."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tyro.conf import OmitArgPrefixes, Positional

from collegium.claims import Claim, choose_claims, list_claims, read_ledger, run_claims
from collegium.cli.command import Command, Group
from collegium.cli.console import Screen
from collegium.cli.output import Outcome
from collegium.core.errors import ConfigError
from collegium.recipes.budget import parse_budget
from collegium.recipes.common import Common


@dataclass(frozen=True)
class ClaimsListConfig:
    """List the claims of the ledger with their verdicts."""

    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


@dataclass(frozen=True)
class ClaimsRunConfig:
    """Measure claims, piece by piece; what has a result is kept, an interrupted run goes on."""

    ids: Positional[tuple[str, ...]] = ()
    """Claims such as M2 M3; default = all."""
    scale: Literal["all", "exact", "toy", "small", "paper"] = "all"
    """Only claims of this scale."""
    replace: bool = False
    """Measure claims anew that have a result; the earlier verdict and the earlier pieces stay on record."""
    budget: str = "full"
    """Stop after the piece in which this time ran out (30m); `full` = no limit."""
    out: Path = Path("runs/claims")
    """Where finished pieces are kept."""
    dry_run: bool = False
    """List what would be measured, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine; the claims' own seeds are in the ledger."""


def run_list_claims(config: ClaimsListConfig, screen: Screen) -> Outcome:
    """Return every claim with its verdict."""
    del config
    rows = [_row(state.claim, state.result.verdict if state.result else "not run") for state in list_claims()]
    screen.table(("id", "scale", "verdict", "statement"), [[row[key] for key in _COLUMNS] for row in rows])
    return Outcome({"claims": rows}, rows)


def run_run_claims(config: ClaimsRunConfig, screen: Screen) -> Outcome:
    """Return what became of the chosen claims."""
    config.common.apply_threads()
    scale = None if config.scale == "all" else config.scale
    budget = parse_budget(config.budget)
    if budget.tokens is not None:
        raise ConfigError(f"--budget of claims is a time (30m, 2h) or `full`, got {config.budget!r}.")
    if config.dry_run:
        kept = {each.claim.key for each in list_claims() if each.result is not None and not config.replace}
        chosen = choose_claims(read_ledger(), config.ids, scale)
        waiting = [_row(claim, "would run") for claim in chosen if claim.key not in kept]
        screen.table(("id", "scale", "verdict", "statement"), [[row[key] for key in _COLUMNS] for row in waiting])
        return Outcome({"claims": waiting}, waiting)
    outcomes = run_claims(
        config.ids,
        scale,
        folder=config.out,
        budget_seconds=budget.seconds,
        replace=config.replace,
        command=" ".join(["collegium claims run", *config.ids, *([] if scale is None else ["--scale", scale])]),
        progress=screen.say,
    )
    rows = [
        {**_row(each.claim, each.result.verdict if each.result else "not run"), "state": each.state}
        for each in outcomes
    ]
    screen.table(
        ("id", "scale", "verdict", "state"), [[row[key] for key in ("id", "scale", "verdict", "state")] for row in rows]
    )
    return Outcome({"claims": rows}, rows)


_COLUMNS = ("id", "scale", "verdict", "statement")


def _row(claim: Claim, verdict: str) -> dict[str, Any]:
    return {"id": claim.id, "scale": claim.scale, "verdict": verdict, "statement": claim.statement}


CLAIMS = Group(
    "The ledger: claims of the papers, measured.",
    {"run": Command(ClaimsRunConfig, run_run_claims, resumes=True), "list": Command(ClaimsListConfig, run_list_claims)},
)
