"""Executable claims of the papers: a ledger written before its runs, experiments, verdicts."""

from collegium.claims.experiment import Experiment, Place
from collegium.claims.experiments import EXPERIMENTS
from collegium.claims.ledger import LEDGER, Claim, Part, parse_claim, read_ledger
from collegium.claims.page import claims_page, current_page
from collegium.claims.results import RESULTS, Result, add_analysis, judge_claim, problems, read_results, write_result
from collegium.claims.run import ClaimState, Outcome, choose_claims, list_claims, run_claims
from collegium.claims.verdict import judge, together

__all__ = [
    "EXPERIMENTS",
    "LEDGER",
    "RESULTS",
    "Claim",
    "ClaimState",
    "Experiment",
    "Outcome",
    "Part",
    "Place",
    "Result",
    "add_analysis",
    "choose_claims",
    "claims_page",
    "current_page",
    "judge",
    "judge_claim",
    "list_claims",
    "parse_claim",
    "problems",
    "read_ledger",
    "read_results",
    "run_claims",
    "together",
    "write_result",
]
