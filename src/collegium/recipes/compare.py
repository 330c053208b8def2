"""`compare`: every router x composition on the same tokens: quality, speed, memory; the best becomes the default."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.core.errors import ConfigError
from collegium.core.routing import BASE
from collegium.data import read_domains
from collegium.infer import HeldOut, fill_table
from collegium.library import Library
from collegium.recipes.budget import scored_tokens
from collegium.recipes.columns import Column, column, oracle_column, single_column, time_columns, ways
from collegium.recipes.common import Common
from collegium.recipes.held_out import REDUCED_TOKENS, unseen, windows_of
from collegium.recipes.opening import gather, open_library
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.speed import say_scoring_plan, scoring_plan
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class CompareConfig:
    """Score every router with every composition on held-out text and set the best as the library's default."""

    data: Positional[Path]
    """A folder or file of texts, one sub-folder or file per domain."""
    library: Path
    """The library of experts."""
    max_slowdown: float | None = None
    """How many times slower than the base the default may be; no limit unless given."""
    keep_default: bool = False
    """Leave the library's default as it is."""
    window: int = 128
    """Tokens a window."""
    context: int = 32
    """Leading tokens of a window that are read and not scored."""
    budget: str = "reduced"
    """`reduced` (8,192 tokens a domain), `full`, or tokens as in 20k."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    dry_run: bool = False
    """Measure and show what would be scored, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: CompareConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: a row per composition, and which became the default."""
    start = time.perf_counter()
    if config.max_slowdown is not None and not 1 <= config.max_slowdown < math.inf:
        raise ConfigError(
            f"--max-slowdown is at least 1 (the base's own speed) and finite, got {config.max_slowdown:g}. Leave it "
            "out for no limit."
        )
    tokens = scored_tokens(config.budget, reduced=REDUCED_TOKENS)
    corpus = read_domains(config.data, columns=config.columns or None)
    base, library = open_library(config.library, config.common)
    usable = unseen(corpus, library)
    text = windows_of(
        usable.documents,
        base.tokenizer,
        window=config.window,
        context=config.context,
        budget_tokens=tokens,
    )
    cast = gather(base, library, watch)
    if config.dry_run:
        others = sum(way.compose != "ensemble" for way in ways(cast, library))
        plan = scoring_plan(base, text, rows=1 + len(cast.names) + others)
        say_scoring_plan(plan, watch)
        return make_card("compare", config, {"plan": plan}, time.perf_counter() - start)
    voices = cast.voices()
    update = watch.begin("scoring", int(text.lengths.sum()))
    table = fill_table(voices, text, voices.names, progress=lambda done, _: update(done))
    found = [single_column(table, BASE)]
    found += [column(way, cast, library, table, watch=watch) for way in ways(cast, library)]
    found = [*time_columns(found, cast, library, text, watch=watch), oracle_column(table)]
    best = choose(found, text, max_slowdown=config.max_slowdown)
    if not config.keep_default:
        set_default(Library(config.library), best)
    result = {
        "rows": rows(found, text),
        "best": None if best is None else best.label,
        "default_set": best is not None and not config.keep_default,
        "skipped_documents": usable.skipped,
        "seconds": round(time.perf_counter() - start, 3),
    }
    return make_card("compare", config, result, time.perf_counter() - start)


def mean_nats(each: Column, text: HeldOut) -> float:
    """Return the mean over domains of a column's nats a token."""
    values = each.perplexity(text).values()
    return sum(math.log(value) for value in values) / len(values)


def choose(columns: Sequence[Column], text: HeldOut, *, max_slowdown: float | None) -> Column | None:
    """Return the composition with the fewest nats among those within the slowdown; the cheaper of equals.

    None when only the base is fast enough.
    """
    base = next(each for each in columns if each.label == BASE)
    limit = math.inf if max_slowdown is None else max_slowdown * base.ms_per_token
    able = [each for each in columns if each.way and each.ms_per_token <= limit]
    return min(able, key=lambda each: (round(mean_nats(each, text), 6), each.ms_per_token), default=None)


def set_default(library: Library, best: Column | None) -> None:
    """Make a composition the library's default."""
    if best is None or best.way is None:
        return
    library.set_defaults(router=best.way.recipe.name, composition=best.way.compose, top_k=best.way.top_k)


def rows(columns: Sequence[Column], text: HeldOut) -> list[dict[str, Any]]:
    """Return the table's rows as plain values; what was not measured is None."""
    return [
        {
            "name": each.label,
            "reference": each.way.query if each.way else None,
            "perplexity": each.perplexity(text),
            "experts_evaluated": each.rows,
            "ms_per_token": None if math.isnan(each.ms_per_token) else round(each.ms_per_token, 4),
            "resident_mb": round(each.resident_bytes / 1e6, 1) if each.resident_bytes else None,
        }
        for each in columns
    ]
