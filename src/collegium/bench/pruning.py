"""V4's second half: experts on all layers whose ensemble is paid for by posterior pruning.

What it must cost follows from how far apart the experts are: a rival that says a token by s nats worse than the best is
under epsilon after ln(1 / epsilon) / s tokens. So the separation is printed beside the time, with what follows from it.
"""

import functools
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Finding, Progress, Target
from collegium.bench.models import bench_base
from collegium.bench.separated import Separated, separated
from collegium.bench.timing import Timing, alternate
from collegium.compose import Ensemble, SlotVoices, combine, prune_table, route
from collegium.models import Base, RowPlan
from collegium.routers import posterior

EPSILON = 1e-3
TOKENS = (128, 256, 512, 1024)
TEXTS = 4
TARGETS = (
    Target("pruned_256_over_base", "at most", 2.5),
    Target("pruned_1024_over_base", "at most", 1.5),
    Target("pruned_perplexity_change", "at most", 1e-3),
)
_TASK = "score, all layers"


@dataclass(frozen=True, eq=False)
class Table:
    """What every expert says of the texts' tokens, how long that took, and what the full ensemble makes of it."""

    said: Float[Tensor, "text seq expert"]
    full: Float[Tensor, "text seq"]
    seconds: float


def measure_pruning(quick: bool, progress: Progress) -> Finding:
    """Return what pruning costs beside the base alone at each length, and what it changes in what is said."""
    sizes, base = ((32, 48, 64, 96) if quick else TOKENS), bench_base(quick)
    made = separated(base, sizes[-1], quick=quick, progress=lambda line: progress(f"V4: {line}"))
    voices = SlotVoices(base, {name: name for name in made.names})
    pruned = Ensemble(voices, posterior().bind(made.names), prune=EPSILON)
    texts = _chosen(made)
    progress("V4: the full ensemble")
    table = full_table(base, made, texts)
    rows: list[dict[str, object]] = [_row("full ensemble", sizes[-1], Timing((table.seconds,)), {})]
    ratios: dict[str, float] = {}
    timings: dict[str, dict[int, Timing]] = {"base": {}, "pruned ensemble": {}}
    changes, differences = [], []
    for tokens in sizes:
        progress(f"V4: pruned, {tokens} tokens")
        read = made.texts[texts, :tokens]
        said = pruned.score(read)
        full = table.full[:, :tokens]
        change = math.exp(float((full - said)[:, 1:].mean())) - 1
        expected = _expected(made, table, texts, tokens)
        figures = {**expected, "perplexity_change": change}
        differences.append(float((said - full).abs().max()))
        changes.append(abs(change))
        took = alternate(
            {"base": functools.partial(base.score, read), "pruned ensemble": functools.partial(pruned.score, read)},
            repeats=2,
        )
        for name, timing in took.items():
            timings[name][tokens] = timing
            rows.append(_row(name, tokens, timing, {} if name == "base" else figures))
        ratios[f"pruned_{tokens}_over_base"] = took["pruned ensemble"].least / took["base"].least
        ratios |= {f"pruned_{tokens}_{name}": value for name, value in expected.items()}
    ratios["pruned_perplexity_change"] = max(changes)
    ratios["pruned_largest_difference"] = max(differences)
    points = [point for name, each in timings.items() for point in growth(f"{_TASK}, {name}", "tokens", each)]
    return Finding(rows, ratios, TARGETS, growth=points, notes=(_told(made, ratios, sizes),))


def profiled_pruning(quick: bool) -> Mapping[str, Callable[[], object]]:
    """Return a run of the pruned ensemble, to be looked into."""
    base, tokens = bench_base(quick), 48 if quick else 256
    made = separated(base, tokens, quick=quick, progress=lambda line: None)
    voices = SlotVoices(base, {name: name for name in made.names})
    pruned = Ensemble(voices, posterior().bind(made.names), prune=EPSILON)
    return {f"{tokens} tokens, pruned": functools.partial(pruned.score, made.texts[_chosen(made)])}


def full_table(base: Base, made: Separated, texts: Sequence[int]) -> Table:
    """Return what every expert and the full ensemble say of the texts, a text at a time."""
    router = posterior().bind(made.names)
    chosen = made.texts[list(texts)]
    start = time.perf_counter()
    said = torch.cat([base.score_rows(one[None], plan=RowPlan.each(made.names)) for one in chosen], dim=1)
    table = said.permute(1, 2, 0).float().cpu()
    lengths = torch.full((len(chosen),), chosen.shape[1])
    routing = route(
        router, chosen, lengths=lengths, context=torch.ones_like(lengths), tokenizer=None, log_likelihoods=table
    )
    full = combine(routing, table)
    return Table(table, full, time.perf_counter() - start)


def separation(said: Float[Tensor, "seq expert"]) -> Float[Tensor, " rival"]:
    """Return by how many nats a token each other expert says a text worse than the one who says it best.

    >>> separation(torch.tensor([[0.0, 0.0], [-1.0, -3.0], [-2.0, -3.0]]))
    tensor([1.5000])
    """
    mean = said[1:].mean(0)
    best = int(mean.argmax())
    return (mean[best] - mean)[torch.arange(len(mean)) != best]


def _expected(made: Separated, table: Table, texts: Sequence[int], tokens: int) -> dict[str, float]:
    """Return the separation (harmonic mean), the rows a token that follow from it, and those that really were."""
    said = table.said[:, :tokens]
    each = torch.stack([separation(one) for one in said]).clamp(min=1e-9)
    stay = (math.log(1 / EPSILON) / (each * tokens)).clamp(max=1.0)
    lengths = torch.full((len(said),), tokens)
    found = prune_table(
        posterior().bind(made.names), made.texts[list(texts), :tokens], said, lengths=lengths, epsilon=EPSILON
    )
    return {
        "separation": float(1 / (1 / each).mean()),
        "rows_expected": float(1 + stay.sum(-1).mean()),
        "rows": float(found.rows.mean()),
    }


def _chosen(made: Separated) -> list[int]:
    """Return which texts are read: as many as there is time for, of kinds far apart and near."""
    return list(range(0, len(made.names), max(1, len(made.names) // TEXTS)))[:TEXTS]


def _row(name: str, tokens: int, timing: Timing, figures: Mapping[str, float]) -> dict[str, object]:
    return {"task": _TASK, "contestant": name, "tokens": tokens, **timing.row(), **figures}


def _told(made: Separated, ratios: Mapping[str, float], sizes: Sequence[int]) -> str:
    last, kinds = sizes[-1], ", ".join(name.removeprefix("trained-") for name in made.names)
    apart, expected, ran = (ratios[f"pruned_{last}_{each}"] for each in ("separation", "rows_expected", "rows"))
    return (
        f"pruned: {len(made.names)} experts, each trained for a few steps on a kind of text of its own ({kinds}); on a "
        f"text of {last} tokens the others are {apart:.3f} nats a token worse (harmonic mean), from which "
        f"{expected:.2f} experts a token follow; {ran:.2f} were needed"
    )
