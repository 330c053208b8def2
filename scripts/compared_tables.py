"""The tables of docs/compared.md, from what `make compared` wrote."""

from collections.abc import Callable, Mapping, Sequence
from statistics import geometric_mean
from typing import Any

PEER, OURS = "PEFT and scikit-learn", "Collegium"
PYTHON_PEER, PYTHON_OURS, SHELL_OURS = "with_peft.py", "with_collegium.py", "with_collegium.sh"
JOBS: Mapping[str, tuple[str, ...]] = {
    "train an expert, the best held-out loss kept": ("train", "windows", "read_texts"),
    "load what was kept": ("open", "load"),
    "a router": ("fit_router", "route"),
    "score routed text": ("score", "nats"),
    "perplexity by domain, routing accuracy": ("evaluate", "read"),
    "continue prompts": ("generate",),
    "take in a domain, drop one": ("add", "remove"),
}
"""What is done -> the functions of either file that do it."""


def lines(result: Mapping[str, Any]) -> str:
    """Return the lines of code of each job on either side, as Markdown."""
    peer, ours, shell = (result["lines"][name] for name in (PYTHON_PEER, PYTHON_OURS, SHELL_OURS))
    counts = {job: [sum(each.get(name, 0) for name in names) for each in (peer, ours)] for job, names in JOBS.items()}
    rest = [each["all"] - sum(pair[place] for pair in counts.values()) for place, each in enumerate((peer, ours))]
    rows = [[job, *(str(count) if count else "-" for count in pair)] for job, pair in counts.items()]
    rows += [["imports, opening, the order of steps", *map(str, rest)], ["**all**", str(peer["all"]), str(ours["all"])]]
    return "\n".join(
        [
            *table(["lines of code", link(PYTHON_PEER), link(PYTHON_OURS)], rows),
            "",
            f"The same as commands, {link(SHELL_OURS)}: {shell['all']} lines.",
        ]
    )


def minutes(result: Mapping[str, Any]) -> str:
    """Return how long each side took for what both do, in seconds, as Markdown."""
    domains = len(result["tokens"])
    phases = {
        "start: imports, tokenizer; here also base and texts": "start",
        f"train {domains} experts": "train",
        "load for use": "open",
        "fit the router": "fit the router",
        "perplexity by domain": "evaluate",
    }
    found = [result["seconds"][side] for side in (PEER, OURS)]
    rows = [[words, *(seconds(each.get(phase)) for each in found)] for words, phase in phases.items()]
    totals = [sum(each.get(phase, 0.0) for phase in phases.values()) for each in found]
    rows.append(["**all, in minutes**", *(f"{total / 60:.1f}" for total in totals)])
    return "\n".join([*table(["seconds", PEER, OURS], rows), "", conditions(result)])


def quality(result: Mapping[str, Any]) -> str:
    """Return perplexity by domain and routing accuracy, as Markdown."""
    domains = list(result["tokens"])
    rows = []
    for row in result["quality"]:
        values = [row["perplexity"][domain] for domain in domains]
        accuracy = "-" if row["accuracy"] is None else f"{row['accuracy']:.0%}"
        rows.append([row["name"], *(f"{value:.2f}" for value in (*values, geometric_mean(values))), accuracy])
    scored = ", ".join(f"{domain} {result['tokens'][domain]:,}" for domain in domains)
    return "\n".join(
        [
            *table(["perplexity", *domains, "geometric mean", "routed rightly"], rows),
            "",
            f"Scored tokens: {scored}. The two sides' perplexities of the base differ by at most "
            f"{result['base_apart']:.1e} of themselves. One seed.",
        ]
    )


def speed(result: Mapping[str, Any]) -> str:
    """Return the least and the median milliseconds a token of every contestant, as Markdown."""
    shapes: dict[str, dict[str, Any]] = {}
    for row in result["speed"]:
        shapes.setdefault(row["shape"], {})[row["contestant"]] = row
    names = list(next(iter(shapes.values())))
    rows = [
        [shape, *(f"{by_name[name]['min_ms']:.2f} ({by_name[name]['median_ms']:.2f})" for name in names)]
        for shape, by_name in shapes.items()
    ]
    return "\n".join(table(["ms a token, least (median)", *names], rows))


def memory(result: Mapping[str, Any]) -> str:
    """Return the most memory that either process held, as Markdown."""
    phases = {"while training": "train", "while evaluating": "evaluate", "while serving": "serve"}
    found = [result["memory_mb"][side] for side in (PEER, OURS)]
    rows = [[words, *(f"{each[phase]:,}" for each in found)] for words, phase in phases.items()]
    return "\n".join(table(["MB at most", PEER, OURS], rows))


def changes(result: Mapping[str, Any]) -> str:
    """Return what it takes to drop a domain and to take it in again, as Markdown."""
    found = [result["changes"][side] for side in (PEER, OURS)]
    rows = [
        ["drop a domain, seconds", *(seconds(each["remove_seconds"]) for each in found)],
        ["take in a trained expert, seconds", *(seconds(each["add_seconds"]) for each in found)],
        ["largest change left behind, nats a window", *(f"{each['largest_change_nats']:.1g}" for each in found)],
    ]
    return "\n".join(table(["", PEER, OURS], rows))


TABLES: Mapping[str, Callable[[Mapping[str, Any]], str]] = {
    "lines": lines,
    "minutes": minutes,
    "quality": quality,
    "speed": speed,
    "memory": memory,
    "changes": changes,
}
"""Mark in the page -> what stands there."""


def conditions(result: Mapping[str, Any]) -> str:
    """Return what everything was measured with, in words."""
    how = result["settings"]
    packages = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return (
        f"`{result['command']}`, {result['date']}, {result['machine']}; {packages}. Rank {how['rank']} on the top "
        f"{how['layers']} blocks, {how['steps']} steps of {how['batch']} x {how['window']} tokens, learning rate "
        f"{how['learning_rate']:g}, {how['dtype']}, seed {how['seed']}; {result['seconds_in_all'] / 60:.1f} minutes "
        "for the whole comparison."
    )


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]


def seconds(value: float | None) -> str:
    """Return seconds with as many digits as they deserve; a dash for none."""
    if value is None:
        return "-"
    return f"{value:.0f}" if value >= 10 else f"{value:.1f}" if value >= 1 else f"{value:.2g}"


def link(name: str) -> str:
    """Return a file of the comparison as the page names it."""
    return f"`{name}`"
