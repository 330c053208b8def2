"""V4: an ensemble of low-rank experts as rows of one forward, against separate forwards; on all layers, pruned."""

import functools
from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.models import attach_experts, bench_base
from collegium.bench.pruning import measure_pruning, profiled_pruning
from collegium.bench.timing import Timing, alternate
from collegium.core.randomness import generator
from collegium.models import BASE_ROWS, Base, RowPlan

EXPERTS = (1, 2, 4, 8)
_TEXTS = 2


def _drawn(base: Base, tokens: int) -> Int[Tensor, "batch seq"]:
    return torch.randint(base.vocab_size, (_TEXTS, tokens), generator=generator(0, "bench tokens"))


def _together(base: Base, tokens: Tensor, names: Sequence[str]) -> Float[Tensor, "group batch seq"]:
    return base.score_rows(tokens, plan=RowPlan.each(names))


def _apart(base: Base, tokens: Tensor, names: Sequence[str]) -> Float[Tensor, "group batch seq"]:
    return torch.cat([base.score_rows(tokens, plan=RowPlan.one(name)) for name in names])


def decoder(base: Base, plans: Sequence[RowPlan], prompts: Tensor) -> Callable[[], None]:
    """Return a step of decoding that goes on where the last one ended; opening is not timed."""
    rows = [base.open_rows(prompts.tolist(), plan) for plan in plans]
    token = torch.zeros(len(prompts), dtype=torch.long)

    def step() -> None:
        for each in rows:
            each.step(token)
            _ = each.logprobs  # computed when asked for

    return step


def _rows(task: str, experts: int, timings: dict[str, Timing]) -> list[dict[str, object]]:
    return [{"task": task, "contestant": name, "experts": experts, **timing.row()} for name, timing in timings.items()]


def _run(quick: bool, progress: Progress) -> Finding:
    base = bench_base(quick)
    every = attach_experts(base, max(EXPERTS), quick=quick)
    tokens, repeats = _drawn(base, 32 if quick else 128), 2 if quick else 5
    steps = 4 if quick else 30
    difference = float((_together(base, tokens, every) - _apart(base, tokens, every)).abs().max())
    rows, ratios, curves = [], {}, {}
    for experts in EXPERTS:
        progress(f"V4: {experts} experts")
        names = every[:experts]
        scoring = alternate(
            {
                "base": functools.partial(base.score_rows, tokens),
                "one forward": functools.partial(_together, base, tokens, names),
                "separate forwards": functools.partial(_apart, base, tokens, names),
            },
            repeats=repeats,
        )
        plans = {"base": [BASE_ROWS], "one forward": [RowPlan.each(names)]}
        plans["separate forwards"] = [RowPlan.one(name) for name in names]
        decoding = alternate({name: decoder(base, each, tokens) for name, each in plans.items()}, repeats=steps)
        rows += _rows("score", experts, scoring) + _rows("decode a step", experts, decoding)
        for task, timing in (("score", scoring), ("decode", decoding)):
            ratios[f"{task}_{experts}_over_base"] = timing["one forward"].least / timing["base"].least
            ratios[f"{task}_{experts}_separate_over_base"] = timing["separate forwards"].least / timing["base"].least
            for name in ("one forward", "separate forwards"):
                curves.setdefault(f"{task}, {name}", {})[experts] = timing[name]
    ratios["largest_difference"] = difference
    targets = (
        Target("score_8_over_base", "at most", 3.7),
        Target("decode_8_over_base", "at most", 1.8),
        Target("largest_difference", "at most", 1e-4),
    )
    points = [point for curve, timings in curves.items() for point in growth(curve, "experts", timings)]
    roles = {"ours": "one forward", "peer": "separate forwards", "base": "base"}
    pruned = measure_pruning(quick, progress)
    return Finding(
        [*rows, *pruned.rows],
        {**ratios, **pruned.ratios},
        (*targets, *pruned.targets),
        difference,
        (base.source, *pruned.notes),
        [*points, *pruned.growth],
        roles,
    )


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    base = bench_base(quick)
    names = attach_experts(base, max(EXPERTS), quick=quick)
    tokens = _drawn(base, 32 if quick else 128)
    return {
        "scoring with 8 experts": functools.partial(_together, base, tokens, names),
        "a decoded token with 8 experts": decoder(base, [RowPlan.each(names)], tokens),
        **profiled_pruning(quick),
    }


V4 = Bench(
    "V4",
    "ensemble of 8 low-rank experts: on the top 10 layers, 2 x 128 tokens, against 8 separate forwards; on all layers, "
    "with posterior pruning",
    "top 10: scoring at most 3.7x base, decode at most 1.8x, difference to separate forwards at most 1e-4; all layers, "
    "pruned under 1e-3: 2.5x base at 256 tokens, 1.5x at 1,024, perplexity within 0.1 % of the full ensemble",
    _run,
    profiled=_profiled,
)
