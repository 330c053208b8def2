"""The page docs/claims.md, written from the ledger and its results."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import get_args

from collegium.claims.ledger import LEDGER, Claim, Part, Scale, SourceOfClaim, read_ledger
from collegium.claims.pictures import picture_names
from collegium.claims.results import RESULTS, PartResult, Result, read_results
from collegium.claims.tables import Row, read_table, table_lines
from collegium.claims.verdict import VERDICTS

_HEAD = """# Claims

This page is written from the ledger (`src/collegium/claims/ledger`) and its results (`src/collegium/claims/results`)
by `make docs`; a test compares it. Each claim was committed before its run. The verdict comes from the 95 % interval
(Student's t over seeds) of a paired difference: **holds** if the whole interval lies beyond the margin, **fails** if
the whole of it lies on the other side, else **not shown**; a claim of several parts holds if all of them hold and fails
if one fails. *Exact* claims are laws: they hold if the law holds on every seed. A claim that fails stays here with an
analysis; nothing is tuned until it passes.

Scales: *exact* a law; *toy* bigram languages and pico models; *small* the default base (134.5 M parameters) with LoRA
experts on a reduced budget, or a small encoder; *paper* the paper's own size. Sources: *abstract* the paper's abstract
or a summary of it; *paper* its text or official code; *memory* our memory of the paper; *ours* derived by us.
"""

_MODELS = """## The models

What the models measured, means over seeds. Columns of domains and `perplexity` are perplexity on held-out text,
`tokens` and `seconds` those of training, `experts evaluated` the rows that a text costs, 0 = the base's own weights
alone. `dense` = one adapter on all domains at as many tokens as all experts, `dense-wide` = of K times the rank,
`dense-token` = told the domain by a leading token (it has none for an unseen domain). `resident MB` counts weights: the
base's and, in float32, those of the row's adapters; a merge holds the base's alone. In the experiment on arithmetic a
row says in brackets on which domain it is measured; `word mass` is the words' mean probability, `word rate` their share
of the words written, `weight` what was chosen on dev text.

In the experiments on reward models columns of domains are the share of test pairs ranked rightly, `mean` their mean and
`floor` that of words alone: logistic regression on differences of tf-idf vectors of the same training pairs, for each
domain by itself. `resident` and `active` count numbers in memory and those that a text is read with, `pairs` those
learned from, `prompts` those that a router was fitted on, `moved` the share of remembered prompts that go to another
judge than before. `joint` is one adapter of all domains, `joint-wide` one that is as active as MoRE, `joint-whole` a
whole model, `joint-whole-long` one that reads all pairs ten times; `larger` and `smaller` stand on the other base.

In the experiments on alignment a policy is named by its method, its target and its batch or its number; `reached` is
the share of its texts with the feature, `bound` the distance KL(p || a) of the target from the original, `general` the
nats a token of text that has nothing to do with the target, `texts` how many it took to come to a quarter of the first
KL(p, pi). The pictures show means over seeds.
"""


def claims_page(claims: tuple[Claim, ...], results: Mapping[str, Result], tables: Mapping[str, Sequence[Row]]) -> str:
    """Return the page: totals by source and scale, every claim with its numbers, command and date, all models."""
    state = {claim.key: results[claim.key].verdict if claim.key in results else "not run" for claim in claims}
    by_source = _totals("source", get_args(SourceOfClaim), [(claim.source, state[claim.key]) for claim in claims])
    by_scale = _totals("scale", get_args(Scale), [(claim.scale, state[claim.key]) for claim in claims])
    sections = [_section(claim, results.get(claim.key)) for claim in claims]
    models = [_table(name, rows, claims, results) for name, rows in tables.items()]
    lines = [_HEAD, "## Totals\n", *by_source, "", *by_scale, "", "## The claims\n", *sections, _MODELS, *models]
    return "\n".join(lines).rstrip() + "\n"


def current_page(*, ledger: Path = LEDGER, results: Path = RESULTS) -> str:
    """Return the page as it should be now."""
    found = read_results(results)
    names = sorted({each.table for each in found.values() if each.table})
    return claims_page(read_ledger(ledger), found, {name: read_table(name, folder=results) for name in names})


def _totals(what: str, options: Iterable[str], seen: list[tuple[str, str]]) -> list[str]:
    columns = (*VERDICTS, "not run")
    count = Counter(seen)
    lines = [f"| {what} | {' | '.join(columns)} |", f"|---|{'---|' * len(columns)}"]
    for option in options:
        if any(name == option for name, _ in seen):
            lines.append(f"| {option} | {' | '.join(str(count[option, column]) for column in columns)} |")
    return lines


def _section(claim: Claim, result: Result | None) -> str:
    verdict = result.verdict if result else "not run"
    lines = [
        f"### {claim.id} ({claim.scale}): {verdict}\n",
        f"{claim.statement}\n",
        f"Source: {claim.source}; fidelity: {claim.fidelity}; seeds: {len(claim.seeds)}. Tuning: {claim.tuning}\n",
        "| measured | unit | must be | mean | 95 % interval | verdict |",
        "|---|---|---|---|---|---|",
    ]
    measured = {part.metric: part for part in result.parts} if result else {}
    lines += [_part_row(part, measured.get(part.metric)) for part in claim.parts]
    if result is None:
        return "\n".join([*lines, "\nNot run.\n"])
    lines.append(f"\n`{result.command}`, {result.date}, {result.seconds:.0f} s on {result.machine}.\n")
    if result.analysis:
        lines.append(f"Analysis: {result.analysis}\n")
    if result.earlier:
        history = ", ".join(f"{each['date']} {each['verdict']}" for each in result.earlier)
        lines.append(f"Earlier runs: {history}.\n")
    return "\n".join(lines)


def _table(name: str, rows: Sequence[Row], claims: tuple[Claim, ...], results: Mapping[str, Result]) -> str:
    users = ", ".join(claim.id for claim in claims if claim.key in results and results[claim.key].table == name)
    drawn = [f"![{name}](img/{file})" for name, file in picture_names(name).items()]
    return "\n".join([f"### `{name}`: {users}\n", *table_lines(rows), *(["", *drawn] if drawn else []), ""])


def _part_row(part: Part, found: PartResult | None) -> str:
    rule = f"at most {part.margin:g}" if part.direction == "law" else f"{part.direction} {part.margin:g}"
    if found is None:
        return f"| {part.says} | {part.unit} | {rule} | - | - | not run |"
    if part.direction == "law":
        return f"| {part.says} | {part.unit} | {rule} | {max(found.values):.4g} (largest) | - | {found.verdict} |"
    bounds = "without bound" if found.low is None or found.high is None else f"{found.low:.4g} to {found.high:.4g}"
    return f"| {part.says} | {part.unit} | {rule} | {found.estimate:.4g} | {bounds} | {found.verdict} |"
