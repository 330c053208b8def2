"""`reward eval`: which of two answers a reward model prefers, by domain, judge and route."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError
from collegium.core.files import write_text
from collegium.recipes.common import Common
from collegium.recipes.rewarding.fit import chosen_pairs
from collegium.recipes.rewarding.opening import open_reward_reference, seen_by
from collegium.recipes.rewarding.page import reward_page
from collegium.recipes.run_card import RunCard, make_card, make_folder, run_folder, save_card
from collegium.recipes.watch import Watch
from collegium.rewards import ROUTES, judge_corpus

REDUCED_PAIRS = 60
"""Pairs a domain under `--budget reduced`."""


@dataclass(frozen=True)
class RewardEvalConfig:
    """Judge a reward model: accuracy by domain, judge and route, beside what words alone tell; with a report."""

    data: Positional[Path]
    """A folder or file of pairs, one sub-folder or file per domain."""
    model: str = field(kw_only=True)
    """The reward model: LIB#NAME."""
    route: str = "router"
    """Whose accuracy `accuracy` is: router (the model itself), average of the judges, or oracle."""
    budget: str = "reduced"
    """`reduced` (60 pairs a domain), `full`, or a number of pairs."""
    domains: tuple[str, ...] = ()
    """Only these domains."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the columns: chosen=better."""
    domain_column: str = ""
    """A column that names each row's domain, in place of files and folders."""
    drop_unusable: bool = False
    """Leave out and count pairs with equal answers or without text."""
    out: Path | None = None
    """Where the report goes; default runs/reward-eval-HASH."""
    dry_run: bool = False
    """Show what would be judged, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: RewardEvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result is the object of `reward eval --json`."""
    start = time.perf_counter()
    if config.route not in ROUTES:
        raise ConfigError(f"--route is {', '.join(ROUTES[:-1])} or {ROUTES[-1]}, got {config.route!r}.")
    most = pairs_of_budget(config.budget)
    corpus = chosen_pairs(config)
    opened = open_reward_reference(config.model, config.common)
    seen = seen_by(opened)
    counts = {each.name: sum(pair.hash not in seen.train | seen.dev for pair in each.pairs) for each in corpus}
    planned = {name: min(count, most or count) for name, count in counts.items()}
    if config.dry_run:
        for name, count in planned.items():
            watch.say(f"would judge {opened.name} by {count} of {counts[name]} unseen pairs of {name}")
        return make_card("reward eval", config, {"plan": {"pairs": planned}}, time.perf_counter() - start)
    update, done = watch.begin(f"judging with {opened.name}", sum(planned.values())), 0

    def progress(name: str, count: int) -> None:
        nonlocal done
        done += count
        update(done)

    verdict = judge_corpus(opened.model, corpus, seen=seen, most=most, progress=progress)
    seconds = time.perf_counter() - start
    found: dict[str, Any] = {**verdict.to_dict(), "route": config.route, "seconds": round(seconds, 3)}
    found["accuracy"] = found["routes"][config.route]
    card = make_card("reward eval", config, found, seconds)
    folder = make_folder(run_folder("reward eval", config, config.out))
    write_text(folder / "report.html", reward_page(opened.name, found))
    save_card(card, folder)
    watch.say(f"report: {folder / 'report.html'}")
    return card


def pairs_of_budget(text: str) -> int | None:
    """Return a budget as pairs a domain, None = all.

    >>> pairs_of_budget("reduced"), pairs_of_budget("full"), pairs_of_budget("200")
    (60, None, 200)
    """
    word = text.strip()
    if word in ("reduced", "full"):
        return REDUCED_PAIRS if word == "reduced" else None
    if word.isascii() and word.isdigit() and 0 < int(word) < 10**9:
        return int(word)
    raise ConfigError(
        f"--budget is `reduced` ({REDUCED_PAIRS} pairs a domain), `full` or a number of pairs, got {text!r}."
    )
