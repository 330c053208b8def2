"""`router eval`: who speaks on whose held-out text, and what that costs against the best single expert."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import GatedMix
from collegium.core.errors import ConfigError
from collegium.core.routing import BASE, Routing
from collegium.data import read_domains
from collegium.infer import HeldOut, evaluate_scores
from collegium.recipes.budget import scored_tokens
from collegium.recipes.common import Common
from collegium.recipes.evaluate import composed_scores, table_of
from collegium.recipes.held_out import REDUCED_TOKENS, unseen, windows_of
from collegium.recipes.opening import open_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.speed import say_scoring_plan, scoring_plan
from collegium.recipes.watch import Watch

TRACED_WINDOWS = 4
"""Windows of each domain on which every place of gates is looked at."""


@dataclass(frozen=True)
class RouterEvalConfig:
    """Show how a composition routes held-out text: mean weights by domain, accuracy, regret, calibration."""

    data: Positional[Path]
    """A folder or file of texts, one sub-folder or file per domain."""
    model: str
    """What to look at: LIB, LIB?router=posterior, LIB?router=arrow:top_k=2&compose=mix."""
    window: int = 128
    """Tokens a window."""
    context: int = 32
    """Leading tokens of a window that are read and not counted."""
    budget: str = "reduced"
    """`reduced` (8,192 tokens a domain), `full`, or tokens as in 20k."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    dry_run: bool = False
    """Measure and show what would be scored, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: RouterEvalConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: mean weights, routing quality and, of gates, how sure each place is of its own expert."""
    start = time.perf_counter()
    tokens = scored_tokens(config.budget, reduced=REDUCED_TOKENS)
    corpus = read_domains(config.data, columns=config.columns or None)
    opened = open_reference(config.model, config.common, watch=watch)
    if opened.way is None or opened.way.compose == "merge":
        raise ConfigError(
            f"router eval looks at how a library's composition routes text; {config.model!r} does not route. Give "
            "--model LIB with a router or gates."
        )
    usable = unseen(corpus, opened.library)
    text = windows_of(
        usable.documents,
        opened.base.tokenizer,
        window=config.window,
        context=config.context,
        budget_tokens=tokens,
    )
    if config.dry_run:
        plan = scoring_plan(opened.base, text, rows=2 + len(opened.experts))
        say_scoring_plan(plan, watch)
        return make_card("router eval", config, {"plan": plan}, time.perf_counter() - start)
    table = table_of(opened, text, watch=watch)
    composed, routing = composed_scores(opened, table, watch=watch)
    assert routing is not None, "every composition but a merge routes"
    quality = evaluate_scores(table, composed, routing).to_json()
    model = opened.model
    seconds = time.perf_counter() - start
    result = {
        "model": config.model,
        "way": opened.way.label,
        "weights": mean_weights(routing, text),
        "routing": quality["routing"],
        "composed": quality["composed"],
        "oracle": quality["oracle"],
        "base": quality["base"],
        "places": places(model, text) if isinstance(model, GatedMix) else {},
        "seconds": round(seconds, 3),
    }
    return make_card("router eval", config, result, seconds)


def mean_weights(routing: Routing, text: HeldOut) -> dict[str, dict[str, float]]:
    """Return each expert's mean weight at the counted tokens of each domain: domain -> expert -> weight.

    The weight that counts for a token is the one after the token before it.
    """
    dense = routing.dense().expand(len(text.domains), text.tokens.shape[1], -1)
    before = torch.cat([dense[:, :1], dense[:, :-1]], dim=1)
    found = {}
    for domain in text.domain_names:
        counted = text.counted & text.of(domain)[:, None]
        means = before[counted].double().mean(dim=0).tolist()
        found[domain] = dict(zip(routing.experts, means, strict=True))
    return found


def places(model: GatedMix, text: HeldOut) -> dict[str, dict[str, float]]:
    """Return place -> domain -> the mean weight that the place gives to the domain's own expert, on a few windows."""
    found: dict[str, dict[str, Any]] = {}
    for domain in text.domain_names:
        if domain not in model.experts or domain == BASE:
            continue
        rows = text.of(domain).nonzero().flatten()[:TRACED_WINDOWS]
        column, counted = model.experts.index(domain), text.counted[rows]
        for path, routing in model.trace(text.tokens[rows]).items():
            found.setdefault(path, {})[domain] = float(routing.dense()[..., column][counted].double().mean())
    return found
