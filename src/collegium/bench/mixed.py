"""V3: a batch of rows with different experts, decoding, against PEFT's `adapter_names` and a loop of `set_adapter`."""

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.models import RANK, TOP_LAYERS, bench_base, save_adapters, toy_base
from collegium.bench.peers import NO_PEFT, find_peer, peers_own_warnings, peft_model, stepper
from collegium.bench.timing import Timing, alternate
from collegium.core.randomness import generator
from collegium.experts.recipe import using_threads
from collegium.models import BASE_ROWS, Base, Group, RowPlan
from collegium.testing.pico import pico_base, random_adapter

OURS, NAMED, LOOP, PLAIN = "one forward", "PEFT adapter_names", "PEFT set_adapter loop", "base"
_PROMPT_TOKENS = 16

Step = Callable[[], Float[Tensor, "batch vocab"]]


@dataclass(frozen=True)
class Shape:
    """What is measured on: a base, where experts lie and of which rank, and how much of it.

    loop: whether the loop of `set_adapter` takes part; it is slow. threads: None = as many as torch uses.
    """

    label: str
    make: Callable[[], Base]
    layers: str
    rank: int
    rows: int = 64
    sizes: tuple[int, ...] = (1, 4, 16, 64)
    repeats: int = 20
    loop: bool = False
    threads: int | None = None


_SMOL = functools.partial(bench_base, False)
SHAPES = (
    Shape("toy", toy_base, "all", 8, loop=True, threads=1),
    Shape("smollm2 top 10", _SMOL, TOP_LAYERS, RANK, repeats=10),
    Shape("smollm2 all layers", _SMOL, "all", RANK, repeats=10),
)
QUICK = (Shape("toy", pico_base, "all", 4, rows=8, sizes=(1, 2, 4, 8), repeats=2, loop=True, threads=1),)


def row_plan(names: Sequence[str], rows: int) -> RowPlan:
    """Return the plan in which row r speaks through expert r modulo their number, alone."""
    return RowPlan((Group(tuple(names), index=(torch.arange(rows) % len(names))[:, None]),))


def our_step(base: Base, prompts: Int[Tensor, "batch seq"], plan: RowPlan) -> Step:
    """Return a step of decoding that goes on where the last one ended; the prompts are read here and not timed."""
    rows, token = base.open_rows(prompts.tolist(), plan), prompts[:, 0]

    def step() -> Tensor:
        rows.step(token)
        return rows.logprobs

    return step


def loop_step(model: Any, prompts: Int[Tensor, "batch seq"], names: Sequence[str]) -> Step:  # noqa: ANN401 - PEFT's
    """Return a step that sets one adapter after another and runs its rows, each with a cache of its own."""
    steps = {}
    for place, name in enumerate(names):
        model.set_adapter(name)
        steps[name] = stepper(model, prompts[place :: len(names)])

    def step() -> Tensor:
        said = {}
        for name, each in steps.items():
            model.set_adapter(name)
            said[name] = each()
        rows = next(iter(said.values())).new_empty(len(prompts), next(iter(said.values())).shape[-1])
        for place, name in enumerate(names):
            rows[place :: len(names)] = said[name]
        return rows

    return step


def _measure(shape: Shape, progress: Progress) -> tuple[list[dict[str, Any]], dict[str, dict[int, Timing]], float]:
    """Return rows, timings by contestant and size, and the largest difference between ours and PEFT's."""
    base, peft, difference = shape.make(), find_peer("peft"), 0.0
    every = [f"expert-{number}" for number in range(max(shape.sizes))]
    adapters = {
        name: random_adapter(base, number, rank=shape.rank, layers=_layers(shape, base), scale=0.05)
        for number, name in enumerate(every)
    }
    prompts = torch.randint(base.vocab_size, (shape.rows, _PROMPT_TOKENS), generator=generator(0, "bench rows"))
    peer = None
    if peft is not None:
        progress(f"V3: {shape.label}: PEFT loads {len(every)} adapters")
        with tempfile.TemporaryDirectory() as folder:
            peer = peft_model(peft, base, save_adapters(base, adapters, Path(folder)))
    for name, adapter in adapters.items():
        base.attach(name, adapter)
    rows, curves = [], {}
    for size in shape.sizes:
        progress(f"V3: {shape.label}: {size} experts")
        contestants = _contestants(shape, base, peer, prompts, every[:size])
        said = {name: step() for name, step in contestants.items() if name != PLAIN}
        difference = max(difference, *(float((each - said[OURS]).abs().max()) for each in said.values()))
        with peers_own_warnings():
            timings = alternate(contestants, repeats=shape.repeats)
        for name, timing in timings.items():
            curves.setdefault(name, {})[size] = timing
            rows.append({"shape": shape.label, "contestant": name, "experts": size, **timing.row()})
    return rows, curves, difference


def _layers(shape: Shape, base: Base) -> str:
    return shape.layers if shape.layers == "all" else f"top:{min(int(shape.layers[4:]), len(base.blocks))}"


def _contestants(shape: Shape, base: Base, peer: Any, prompts: Tensor, names: Sequence[str]) -> dict[str, Step]:  # noqa: ANN401
    found = {
        PLAIN: our_step(base, prompts, BASE_ROWS),
        OURS: our_step(base, prompts, row_plan(names, len(prompts))),
    }
    if peer is not None:
        spoken = [names[row % len(names)] for row in range(len(prompts))]
        found[NAMED] = stepper(peer, prompts, adapter_names=spoken)
        if shape.loop:
            found[LOOP] = loop_step(peer, prompts, names)
    return found


def _run(quick: bool, progress: Progress) -> Finding:
    rows, ratios, points, largest, measured = [], {}, [], 0.0, False
    for shape in QUICK if quick else SHAPES:
        with using_threads(shape.threads or torch.get_num_threads()):
            found, curves, difference = _measure(shape, progress)
        rows += found
        largest = max(largest, difference)
        label = shape.label.replace(" ", "_")
        for name, timings in curves.items():
            points += growth(f"{shape.label}, {name}", "experts", timings)
        for size in shape.sizes:
            ours = curves[OURS][size].least
            ratios[f"{label}_{size}_over_base"] = ours / curves[PLAIN][size].least
            for name, key in ((NAMED, "adapter_names"), (LOOP, "set_adapter")):
                if name in curves:
                    measured = True
                    ratios[f"{label}_{size}_faster_than_{key}"] = curves[name][size].least / ours
    if measured:
        ratios["largest_difference"] = largest
    roles = {"ours": OURS, "peer": NAMED, "base": PLAIN}
    notes = ("ranks: 8 on toy with one thread, 16 on smollm2-135m", *(() if measured else (NO_PEFT,)))
    return Finding(rows, ratios, _TARGETS, largest if measured else None, notes, points, roles)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    shape = QUICK[0] if quick else SHAPES[0]
    base = shape.make()
    names = [f"expert-{number}" for number in range(max(shape.sizes))]
    for number, name in enumerate(names):
        base.attach(name, random_adapter(base, number, rank=shape.rank, scale=0.05))
    prompts = torch.zeros(shape.rows, _PROMPT_TOKENS, dtype=torch.long)
    return {f"a token of {shape.rows} rows on toy": our_step(base, prompts, row_plan(names, shape.rows))}


_TARGETS = (
    Target("toy_1_faster_than_adapter_names", "at least", 1.0),
    Target("toy_16_faster_than_adapter_names", "at least", 2.0),
    Target("toy_64_faster_than_adapter_names", "at least", 5.0),
    Target("toy_64_over_base", "at most", 3.0),
    Target("smollm2_top_10_64_over_base", "at most", 1.1),
    Target("smollm2_all_layers_64_over_base", "at most", 1.3),
)

V3 = Bench(
    "V3",
    "64 rows with 1, 4, 16, 64 different experts, decoding, against PEFT's `adapter_names` and a `set_adapter` loop",
    "N = 1 no slower, N = 16 at least 2x, N = 64 at least 5x faster than `adapter_names`; at most 3x base on toy, "
    "1.1x on smollm2-135m with experts on the top 10 layers, 1.3x on all layers",
    _run,
    peers=("peft",),
    profiled=_profiled,
)
