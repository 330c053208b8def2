"""Write the README's picture and table from the committed run of the demo.

python scripts/picture.py          write docs/img/demo.svg and the table in README.md
python scripts/picture.py --check  fail when they differ from docs/runs/demo.json
"""

import json
import sys
from pathlib import Path

from collegium.recipes.report import heat_map

ROOT = Path(__file__).resolve().parent.parent
RUN = ROOT / "docs" / "runs" / "demo.json"
PICTURE = ROOT / "docs" / "img" / "demo.svg"
README, CHOOSE, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "choose.md", ROOT / "docs" / "performance.md"
BEGIN, END = "<!-- demo: begin -->", "<!-- demo: end -->"
SHOWN = ("base", "ensemble uniform", "merge uniform", "mix posterior", "ensemble posterior", "oracle")


def picture(run: dict) -> str:
    """Return the heat map of the run: base, every expert, the composition."""
    result = run["result"]
    composed = f"composed ({result['default']})"
    rows = {"base": result["base"], **result["matrix"], composed: result["composed"]}
    intervals = {name: {key: tuple(pair) for key, pair in row.items()} for name, row in result["intervals"].items()}
    intervals[composed] = intervals["composed"]
    return heat_map(rows, intervals=intervals, title="perplexity on held-out text, with 95 % intervals")


def table(run: dict) -> str:
    """Return the table of compositions as Markdown, with the command and machine it came from."""
    result = run["result"]
    domains = list(result["base"])
    columns = {row["name"]: row for row in result["columns"]}
    default = result["default"]
    names = [name for name in (*SHOWN[:-1], default, SHOWN[-1]) if name in columns]
    lines = [f"| perplexity | {' | '.join(domains)} | ms a token |", f"|---|{'---|' * (len(domains) + 1)}"]
    for name in dict.fromkeys(names):
        row = columns[name]
        speed = "-" if row["ms_per_token"] is None else f"{row['ms_per_token']:.2f}"
        label = f"**{name}**" if name == default else name
        cells = " | ".join(f"{row['perplexity'][domain]:.1f}" for domain in domains)
        lines.append(f"| {label} | {cells} | {speed} |")
    plan = result["plan"]
    lines += [
        "",
        f"`collegium demo`, seed {run['config']['common']['seed']}, {run['date']}, {run['machine']}: "
        f"{result['seconds'] / 60:.1f} minutes, {plan['tokens_per_expert']:,} training tokens an expert, "
        f"{sum(result['tokens'].values()):,} held-out tokens; oracle = the best single expert of each domain, chosen "
        f"with hindsight. Discovery without labels: NMI {result['discovered']['nmi']:.2f}. Largest change after an "
        f"expert was added and removed again: {result['removed']['largest_change']}.",
    ]
    return "\n".join(lines)


def compositions(run: dict) -> str:
    """Return every composition with its perplexity and its time against the base's, as Markdown."""
    result = run["result"]
    domains = list(result["base"])
    base = next(row for row in result["columns"] if row["name"] == "base")
    low, high = result["intervals"]["composed"][domains[0]]
    lines = [
        f"One run, one seed, {result['tokens'][domains[0]]:,} scored tokens of {domains[0]}; the 95 % interval of "
        f"`{result['default']}` there goes from {low:.1f} to {high:.1f}, so take small differences lightly.",
        "",
        f"| composition | {' | '.join(domains)} | times the base's ms |",
        f"|---|{'---|' * (len(domains) + 1)}",
    ]
    for row in result["columns"]:
        speed = "-" if row["ms_per_token"] is None else f"{row['ms_per_token'] / base['ms_per_token']:.1f}"
        cells = " | ".join(f"{row['perplexity'][domain]:.2f}" for domain in domains)
        lines.append(f"| {row['name']} | {cells} | {speed} |")
    return "\n".join(lines)


def costs(run: dict) -> str:
    """Return what each kind of composition costs, as Markdown."""
    rows = {row["name"]: row for row in run["result"]["columns"]}
    base = rows["base"]["ms_per_token"]
    named = {
        "base": "base, merge",
        "mix uniform": "mix uniform",
        "ensemble classifier top-1": "ensemble, one live expert (classifier top-1)",
        "ensemble classifier top-2": "ensemble, two live experts (classifier top-2)",
        "mix posterior": "mix posterior (the context is read by every expert)",
        "ensemble posterior": "ensemble, all experts",
    }
    lines = ["| composition | rows | ms a token | times the base | weights held, MB |", "|---|---|---|---|---|"]
    for name, label in named.items():
        row = rows[name]
        lines.append(
            f"| {label} | {row['experts_evaluated']:.0f} | {row['ms_per_token']:.2f} | "
            f"{row['ms_per_token'] / base:.1f} | {row['resident_mb']:.0f} |"
        )
    return "\n".join(lines)


def filled(page: Path, content: str) -> str:
    """Return a page with what stands between its two marks replaced."""
    before, begin, rest = page.read_text().partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{page} lacks the marks {BEGIN} and {END}.")
    return f"{before}{BEGIN}\n{content}\n{END}{after}"


def main() -> int:
    """Write or check all."""
    run = json.loads(RUN.read_text())
    tables = {README: table(run), CHOOSE: compositions(run), PERFORMANCE: costs(run)}
    wanted = {page: filled(page, content) for page, content in tables.items()} | {PICTURE: picture(run)}
    if "--check" in sys.argv:
        stale = [path.name for path, content in wanted.items() if not path.exists() or path.read_text() != content]
        sys.stdout.write(f"out of date: {stale}; run scripts/picture.py\n" if stale else "")
        return 1 if stale else 0
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
