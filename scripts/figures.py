"""Write the picture and every table of figures in README.md and docs from the committed runs and benches.

python scripts/figures.py          write them
python scripts/figures.py --check  fail when one differs from docs/runs and bench
"""

import json
import sys
from pathlib import Path
from statistics import geometric_mean

import align_tables
from compared_tables import TABLES as COMPARED_TABLES
from reward_tables import TABLES as REWARD_TABLES
from stream_tables import streams

from collegium.claims import list_claims
from collegium.claims.pictures import pictures
from collegium.claims.results import RESULTS
from collegium.claims.tables import read_table
from collegium.recipes.report import heat_map

ROOT = Path(__file__).resolve().parent.parent
RUN, FULL = ROOT / "docs" / "runs" / "demo.json", ROOT / "docs" / "runs" / "full.json"
BENCHES = ROOT / "bench" / "results"
COMPARED = ROOT / "bench" / "compared" / "result.json"
PICTURE = ROOT / "docs" / "img" / "demo.svg"
README, CHOOSE, PERFORMANCE = ROOT / "README.md", ROOT / "docs" / "choose.md", ROOT / "docs" / "performance.md"
COMPARED_PAGE = ROOT / "docs" / "compared.md"
REWARDS, REWARDS_PAGE = ROOT / "bench" / "rewards", ROOT / "docs" / "rewards.md"
ALIGNMENT, ALIGNMENT_PAGE = ROOT / "bench" / "alignment", ROOT / "docs" / "alignment.md"
STREAMS, STREAMS_PAGE = ROOT / "bench" / "continual", ROOT / "docs" / "continual.md"
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
    discovered, removed = result["discovered"], result["removed"]
    lines += [
        "",
        f"{conditions(run, 'collegium demo')}, {result['seconds'] / 60:.1f} minutes; oracle = the best single expert "
        f"of each domain, chosen with hindsight. Discovery without labels: NMI {discovered['nmi']:.2f}. Largest change "
        f"after an expert was added and removed again: {removed['largest_change']}.",
    ]
    return "\n".join(lines)


def conditions(run: dict, command: str) -> str:
    """Return what a run was made with, in words."""
    result = run["result"]
    return (
        f"`{command}`, seed {run['config']['common']['seed']}, {run['date']}, {run['machine']}: "
        f"{result['plan']['tokens_per_expert']:,} training tokens an expert, "
        f"{sum(result['tokens'].values()):,} held-out tokens"
    )


def against_dense(run: dict) -> str:
    """Return how the composition stands against dense training and cluster experts, as Markdown."""
    result = run["result"]
    domains = list(result["base"])
    columns = {row["name"]: row for row in result["columns"]}
    rows = [columns["base"], columns[result["default"]], *result["baselines"]]
    lines = [f"| perplexity | {' | '.join(domains)} | geometric mean |", f"|---|{'---|' * (len(domains) + 1)}"]
    for row in rows:
        label = f"**{row['name']}**" if row["name"] == result["default"] else row["name"]
        values = [row["perplexity"][domain] for domain in domains]
        cells = " | ".join(f"{value:.2f}" for value in (*values, geometric_mean(values)))
        lines.append(f"| {label} | {cells} |")
    rank = len(domains) * run["config"]["fit"]["rank"]
    command = f"collegium demo --budget full --steps {result['plan']['steps']}"
    lines += [
        "",
        f"{conditions(run, command)}; dense = one adapter of the experts' rank trained on the very text that all "
        f"experts read, dense rank {rank} = as many trained parameters as all experts too, each the best "
        "of three learning rates; c-BTM = experts of clusters found without labels.",
    ]
    return "\n".join(lines)


def found_benches(folder: Path) -> dict[str, dict]:
    """Return the committed results of a folder by name, V1 first."""
    found = [json.loads(path.read_text()) for path in folder.glob("*.json")]
    return {each["name"]: each for each in sorted(found, key=lambda each: place_of(each["name"]))}


def place_of(name: str) -> tuple[int, str]:
    """Return where a bench stands: V11 before V11-training."""
    number, _, rest = name.removeprefix("V").partition("-")
    return int(number), rest


def figure(value: float | None) -> str:
    """Return a figure in three digits, or that there is none."""
    if value is None:
        return "not measured"
    return f"{value:,.0f}" if value >= 1000 else f"{value:.3g}"


def benches() -> str:
    """Return every committed bench with what it must reach and what it reached, as Markdown."""
    found, accelerated = found_benches(BENCHES), found_benches(BENCHES / "gpu")
    lines = ["| bench | what | target | measured | reached | on a GPU |", "|---|---|---|---|---|---|"]
    for name, each in found.items():
        there = {target["name"]: target["got"] for target in accelerated.get(name, {}).get("targets", ())}
        for target in each["targets"]:
            words = f"{target['name'].replace('_', ' ')} {target['target']}"
            answer = "yes" if target["reached"] else "**no**"
            cells = (name, each["what"], words, figure(target["got"]), answer, figure(there.get(target["name"])))
            lines.append(f"| {' | '.join(cells)} |")
    machines = sorted({f"{each['date']}, {each['machine']}" for each in (*found.values(), *accelerated.values())})
    return "\n".join([*lines, "", f"`collegium bench run NAME`; {'; '.join(machines)}."])


def curves() -> str:
    """Return how the cost of every committed bench grows, as Markdown: a row for each curve."""
    lines = ["| bench | curve | of | least ms at each size | exponent |", "|---|---|---|---|---|"]
    for name, each in found_benches(BENCHES).items():
        points: dict[tuple[str, str, float], list[str]] = {}
        for point in each["growth"]:
            key = (point["curve"], point["axis"], point["exponent"])
            points.setdefault(key, []).append(f"{point['size']:,}: {figure(point['ms'])}")
        for (curve, axis, exponent), costs in points.items():
            lines.append(f"| {name} | {curve} | {axis} | {', '.join(costs)} | {exponent:.2f} |")
    return "\n".join(lines)


def profiles() -> str:
    """Return where the time of every committed bench goes, as Markdown: a row for each run and view."""
    lines = ["| bench | run | by | largest shares |", "|---|---|---|---|"]
    for name, each in found_benches(BENCHES).items():
        shares: dict[tuple[str, str], list[str]] = {}
        for entry in each["profile"]:
            shares.setdefault((entry["of"], entry["by"]), []).append(f"{entry['name']} {entry['share']:.0%}")
        for (run, view), parts in shares.items():
            lines.append(f"| {name} | {run} | {view} | {', '.join(parts)} |")
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


def filled(text: str, mark: str, content: str) -> str:
    """Return a page with what stands between the two marks of this name replaced."""
    begin, end = f"<!-- {mark}: begin -->", f"<!-- {mark}: end -->"
    before, found, rest = text.partition(begin)
    _, closed, after = rest.partition(end)
    if not found or not closed:
        raise SystemExit(f"a page lacks the marks {begin} and {end}.")
    return f"{before}{begin}\n{content}\n{end}{after}"


def rewards() -> list[tuple[Path, str, str]]:
    """Return the tables of every committed comparison of reward models, each with its page and mark."""
    tables = []
    for folder in sorted(path for path in REWARDS.iterdir() if path.is_dir() and any(path.glob("*.json"))):
        found = {path.stem: json.loads(path.read_text()) for path in folder.glob("*.json")}
        tables += [(REWARDS_PAGE, f"{mark}-{folder.name}", write(found)) for mark, write in REWARD_TABLES.items()]
    return tables


def alignments() -> dict[str, dict[str, dict]]:
    """Return every committed run of the comparison of alignments: target -> method -> card and way."""
    found: dict[str, dict[str, dict]] = {}
    for method in align_tables.LABELS:
        for path in sorted(ALIGNMENT.glob(f"* {method}.json")):
            found.setdefault(path.stem.removesuffix(f" {method}"), {})[method] = json.loads(path.read_text())
    return found


def streamed() -> list[tuple[Path, str, str]]:
    """Return the table of every committed comparison of tasks one after another, with its page and mark."""
    tables = []
    for folder in sorted(path for path in STREAMS.iterdir() if path.is_dir() and any(path.glob("*.json"))):
        cards = [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]
        tables.append((STREAMS_PAGE, f"streams-{folder.name}", streams(cards)))
    return tables


def ways() -> dict[Path, str]:
    """Return the pictures beside the ledger."""
    tables = {state.result.table for state in list_claims() if state.result is not None and state.result.table}
    drawn = (pictures(name, read_table(name, folder=RESULTS)) for name in sorted(tables))
    return {PICTURE.with_name(file): drawing for each in drawn for file, drawing in each.items()}


def main() -> int:
    """Write or check all."""
    run, full, compared = (json.loads(path.read_text()) for path in (RUN, FULL, COMPARED))
    tables = [
        (README, "demo", table(run)),
        (README, "full", against_dense(full)),
        (CHOOSE, "demo", compositions(run)),
        (PERFORMANCE, "demo", costs(run)),
        (PERFORMANCE, "benches", benches()),
        (PERFORMANCE, "curves", curves()),
        (PERFORMANCE, "profiles", profiles()),
        *((COMPARED_PAGE, mark, write(compared)) for mark, write in COMPARED_TABLES.items()),
        *rewards(),
        *streamed(),
        *((ALIGNMENT_PAGE, f"align-{target}", align_tables.table(kept)) for target, kept in alignments().items()),
    ]
    wanted = {PICTURE: picture(run), **ways()}
    for target, kept in alignments().items():
        wanted |= {
            PICTURE.with_name(f"align-{target}-{name}.svg"): drawing
            for name, drawing in align_tables.pictures(kept).items()
        }
    for page, mark, content in tables:
        wanted[page] = filled(wanted.get(page) or page.read_text(), mark, content)
    if "--check" in sys.argv:
        stale = [path.name for path, content in wanted.items() if not path.exists() or path.read_text() != content]
        sys.stdout.write(f"out of date: {stale}; run scripts/figures.py\n" if stale else "")
        return 1 if stale else 0
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return 0


if __name__ == "__main__":
    sys.exit(main())
