"""Every way to compose a library, scored on the same held-out tokens: the columns of `compare`, `build` and the claims.

All ensembles come from one table of per-expert log-probabilities; mix and merge are one forward each.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.compose import Cast, Mix, PrunedTable, live_rows, only_router, textless_weights
from collegium.core.errors import RoutingError
from collegium.core.protocols import LanguageModel, RouterRecipe
from collegium.core.routing import BASE, Routing
from collegium.infer import HeldOut, TokenTable, best_experts, ensemble_scores, perplexities, pruned_scores, score_text
from collegium.library import Library
from collegium.recipes.watch import Watch
from collegium.routers import (
    Recipe,
    arrow,
    cached_prior,
    classifier,
    cluster,
    default,
    phatgoose,
    posterior,
    uniform,
    xlora,
)
from collegium.routers.gates import GateRecipe

TIMED_WINDOWS = 4
"""How many windows a composition's speed is measured on."""
_ROUNDING = 1e-6


@dataclass(frozen=True)
class Way:
    """One composition: how, with which router, how many experts keep weight, under which posterior they leave.

    weights: of a merge alone, any finite ones in place of the router; what is missing to 1 is the base's.
    """

    compose: str
    recipe: Recipe
    top_k: int | None = None
    prune: float = 0.0
    weights: Mapping[str, float] | None = None

    @property
    def label(self) -> str:
        """What tables call it."""
        return (
            f"{self.compose} {self.recipe.name}"
            + ("" if self.top_k is None else f" top-{self.top_k}")
            + (f" prune {self.prune:g}" if self.prune else "")
        )

    @property
    def query(self) -> str:
        """What follows a library's path in a model reference."""
        ending = ("" if self.top_k is None else f"&top_k={self.top_k}") + (
            f"&prune={self.prune:g}" if self.prune else ""
        )
        return f"router={self.recipe.name}&compose={self.compose}{ending}"


@dataclass(frozen=True)
class Column:
    """A composition's scores on the held-out tokens.

    rows: forward rows a text costs, on average where they leave. ms_per_token: milliseconds a scored token, measured.
    resident_bytes: weights held.
    """

    way: Way | None
    label: str
    scores: Float[Tensor, "window seq"]
    routing: Routing | None
    rows: float
    ms_per_token: float = math.nan
    resident_bytes: int = 0

    def perplexity(self, text: HeldOut) -> dict[str, float]:
        """Return the perplexity of each domain."""
        return perplexities(self.scores, text)


def ways(cast: Cast, library: Library) -> list[Way]:
    """Return every composition of this library that exists; routers never fitted and impossible pairs are left out."""
    plain: list[RouterRecipe] = [uniform(), posterior()]
    fitted = [
        recipe for recipe in (cached_prior(), cluster(), classifier(), default()) if _bound(recipe, cast, library)
    ]
    found = [Way("ensemble", recipe) for recipe in (*plain, *fitted)]
    top = [recipe for recipe in (posterior(), *fitted) if recipe.name != "default"]
    found += [Way("ensemble", recipe, k) for recipe in top for k in (1, 2) if k < len(cast.names)]
    if not cast.whole:
        found += [Way("mix", recipe) for recipe in (*plain, *fitted)]
        found += [Way("mix", gates) for gates in (arrow(), phatgoose(), xlora()) if _bound(gates, cast, library)]
    if not (cast.whole and cast.keys):
        found += [Way("merge", recipe) for recipe in (uniform(), cached_prior()) if _bound(recipe, cast, library)]
    return found


def _bound(recipe: Recipe, cast: Cast, library: Library) -> bool:
    """Return whether a recipe can be bound to these experts."""
    try:
        if isinstance(recipe, GateRecipe):
            cast.mixed(recipe, shelf=library)
        else:
            recipe.bind(cast.names, shelf=library, tokenizer=cast.base.tokenizer)
    except RoutingError:
        return False
    return True


def build_way(way: Way, cast: Cast, library: Library) -> LanguageModel:
    """Return the language model that a way stands for."""
    if way.compose == "merge":
        if way.weights is not None:
            rest = 1 - math.fsum(way.weights.values())
            return cast.merged({BASE: rest if rest > _ROUNDING else 0.0, **way.weights})
        weights = textless_weights(way.recipe, cast.names, shelf=library, tokenizer=cast.base.tokenizer)
        return cast.merged(weights)
    if way.compose == "mix":
        return cast.mixed(way.recipe, shelf=library, top_k=way.top_k)
    return cast.ensembled(way.recipe, shelf=library, top_k=way.top_k, prune=way.prune)


def column(way: Way, cast: Cast, library: Library, table: TokenTable, *, watch: Watch) -> Column:
    """Return a composition's column: an ensemble from the table, mix and merge by running them.

    Raises RoutingError for a composition that does not exist.
    """
    if way.compose == "ensemble":
        router = only_router(way.recipe, what="an ensemble").bind(
            cast.names, shelf=library, tokenizer=cast.base.tokenizer
        )
        if way.prune:
            build_way(way, cast, library)  # refuses what cannot be pruned
            found = pruned_scores(table, router, tokenizer=cast.base.tokenizer, top_k=way.top_k, prune=way.prune)
            return Column(way, way.label, found.scores, found.routing, _mean_rows(found, table.text))
        scores, routing = ensemble_scores(table, router, tokenizer=cast.base.tokenizer, top_k=way.top_k)
        many = (
            len(router.experts) if router.needs_likelihoods else live_rows(routing, len(table.text.domains)).choice.rows
        )
        return Column(way, way.label, scores, routing, float(many))
    model = build_way(way, cast, library)
    update = watch.begin(way.label, int(table.text.lengths.sum()))
    scores = score_text(model, table.text, progress=lambda done, _: update(done))
    routing = None
    if isinstance(model, Mix) and not model.router.needs_likelihoods:
        routing = model.routing(table.text.tokens, lengths=table.text.lengths, context=table.text.context)
    return Column(way, way.label, scores, routing, 1.0)


def _mean_rows(found: PrunedTable, text: HeldOut) -> float:
    """Return by how many experts a token was read, on average."""
    return float((found.rows * text.lengths).sum() / text.lengths.sum())


def oracle_column(table: TokenTable) -> Column:
    """Return the column of the single best expert of each domain, chosen with hindsight."""
    scores = torch.zeros_like(table.log_probs[..., 0])
    for domain, name in best_experts(table).items():
        rows = table.text.of(domain)
        scores[rows] = table.column(name)[rows]
    return Column(None, "oracle", scores, None, 1.0)


def single_column(table: TokenTable, voice: str) -> Column:
    """Return the column of one voice alone."""
    return Column(None, voice, table.column(voice), None, 1.0)


def measure_ms(run: Callable[[], object], tokens: int, *, repeats: int = 2) -> float:
    """Return the least milliseconds a token over some runs, after one that is not counted."""
    run()
    best = math.inf
    for _ in range(repeats):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return 1000 * best / tokens


def time_way(way: Way | None, cast: Cast, library: Library, text: HeldOut) -> float:
    """Return the milliseconds a scored token of a composition (None: the base) on a few full windows."""
    rows = text.lengths.argsort(descending=True, stable=True)[:TIMED_WINDOWS]
    tokens, lengths = text.tokens[rows], text.lengths[rows]
    context = text.context[rows]
    model: LanguageModel = cast.base if way is None else build_way(way, cast, library)
    return measure_ms(lambda: model.score(tokens, lengths=lengths, context=context), int(lengths.sum()))


def cost_key(way: Way | None, rows: float) -> tuple[str, float, str]:
    """Return what a composition's speed depends on: ensembles of equally many rows cost the same, each gate its own."""
    if way is None or way.compose == "merge":
        return ("base", 1.0, "")
    if isinstance(way.recipe, GateRecipe):
        return (way.compose, rows, way.recipe.name)
    if way.prune:
        return (way.compose, rows, f"prune {way.prune:g}")
    reads = "context" if way.compose == "mix" and way.recipe.name in {"posterior", "default"} else ""
    return (way.compose, rows, reads)


def time_columns(
    columns: Sequence[Column], cast: Cast, library: Library, text: HeldOut, *, watch: Watch
) -> list[Column]:
    """Return the columns with their speed; each kind of cost is measured once."""
    kinds: dict[tuple[str, float, str], float] = {}
    update = watch.begin("speed", len(columns))
    timed = []
    for place, each in enumerate(columns):
        if each.way is None and each.label != BASE:
            timed.append(each)
        else:
            key = cost_key(each.way, each.rows)
            if key not in kinds:
                kinds[key] = time_way(each.way, cast, library, text)
            timed.append(_with_speed(each, kinds[key], cast))
        update(place + 1)
    return timed


def _with_speed(each: Column, ms_per_token: float, cast: Cast) -> Column:
    adapters = sum(
        tensor.numel()
        for key in cast.keys.values()
        for part in cast.base.adapter(key).values()
        for tensor in part.tensors.values()
    )
    whole = sum(model.memory_bytes for model in cast.whole.values())
    merged = each.way is None or each.way.compose == "merge"
    held = cast.base.memory_bytes + (0 if merged else 4 * adapters + whole)
    return Column(each.way, each.label, each.scores, each.routing, each.rows, ms_per_token, held)
