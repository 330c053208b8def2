"""V1 and V2: Arrow's two experts a token, chosen at every layer, against PEFT's Arrow: a prompt, a step of decoding.

Arrow reads its prototypes from the experts' weights: ours by an exact decomposition, PEFT's by 15 power iterations. The
experts here have one direction that is much stronger than the others, so that both find the same one and choose the
same experts; outputs are compared before anything is timed.
"""

import functools
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.models import RANK, bench_base, peaked, toy_base
from collegium.bench.peers import NO_PEFT, arrow_model, find_peer, next_logprobs, peers_own_warnings, stepper
from collegium.bench.timing import Timing, alternate
from collegium.compose import mix
from collegium.core.cards import ExpertCard
from collegium.core.protocols import LanguageModel
from collegium.core.randomness import generator
from collegium.experts import Expert, adapter_payload
from collegium.experts.recipe import using_threads
from collegium.library import Library
from collegium.models import Base
from collegium.routers import arrow
from collegium.testing.pico import pico_base, random_adapter

OURS, PEER, PLAIN = "collegium Arrow", "PEFT Arrow", "base"
TOP_K = 2
_TEXTS = 4

Task = Literal["prefill", "decode"]
Run = Callable[[], Float[Tensor, "batch vocab"]]


@dataclass(frozen=True)
class Shape:
    """What is measured on. threads: None = as many as torch uses. repeats: of a prompt; a step is repeated more."""

    label: str
    make: Callable[[], Base]
    rank: int
    sizes: tuple[int, ...] = (2, 8, 16, 32, 64)
    tokens: int = 128
    repeats: int = 5
    threads: int | None = None


SHAPES = (
    Shape("toy", toy_base, 8, repeats=7, threads=1),
    Shape("smollm2", functools.partial(bench_base, False), RANK, repeats=2),
)
QUICK = (Shape("toy", pico_base, 4, sizes=(2, 4, 6, 8), tokens=16, repeats=2, threads=1),)


def fill_library(base: Base, path: Path, count: int, rank: int) -> Library:
    """Return a library of random experts with one strong direction each; its folders are PEFT's, too."""
    library = Library(path, base=base)
    for number in range(count):
        payload = adapter_payload(base, peaked(random_adapter(base, number, rank=rank, scale=0.5)))
        library.add(Expert(ExpertCard(name=f"expert-{number:02d}", kind="lora", base=base.fingerprint), payload))
    return library


def arrow_mix(base: Base, library: Library, names: Sequence[str]) -> LanguageModel:
    """Return the language model in which Arrow's gates choose among these experts."""
    return mix(base, library.filter(names), router=arrow(top_k=TOP_K))


def our_prompt(model: LanguageModel, prompts: Int[Tensor, "batch seq"]) -> Run:
    """Return a run that reads the prompts and says what may follow them."""
    listed = prompts.tolist()
    return lambda: model.open(listed).next_logprobs()


def our_step(model: LanguageModel, prompts: Int[Tensor, "batch seq"]) -> Run:
    """Return a step of decoding that appends each prompt's first token once more; the prompts are not timed."""
    decoding, token = model.open(prompts.tolist()), prompts[:, 0]

    def step() -> Tensor:
        decoding.step(token)
        return decoding.next_logprobs()

    return step


def _peers(task: Task, peft: ModuleType, base: Base, folders: Sequence[Path], prompts: Tensor) -> Run:
    model = arrow_model(peft, base, folders, top_k=TOP_K)
    return functools.partial(next_logprobs, model, prompts) if task == "prefill" else stepper(model, prompts)


def _measure(
    task: Task, shape: Shape, progress: Progress
) -> tuple[list[dict[str, Any]], dict[str, dict[int, Timing]], float]:
    """Return rows, timings by contestant and size, and the largest difference between ours and PEFT's."""
    base, peft, difference = shape.make(), find_peer("peft"), 0.0
    prompts = torch.randint(base.vocab_size, (_TEXTS, shape.tokens), generator=generator(0, "bench prompts"))
    ours = our_prompt if task == "prefill" else our_step
    rows, curves = [], {}
    with tempfile.TemporaryDirectory() as folder:
        library = fill_library(base, Path(folder) / "library", max(shape.sizes), shape.rank)
        for size in shape.sizes:
            progress(f"{task}, {shape.label}: {size} experts")
            names = library.names()[:size]
            contestants = {PLAIN: ours(base, prompts)}
            if peft is not None:  # built before our slots are, from a base without any
                folders = [library.path / "experts" / name for name in names]
                contestants[PEER] = _peers(task, peft, base, folders, prompts)
            contestants[OURS] = ours(arrow_mix(base, library, names), prompts)
            if peft is not None:
                difference = max(difference, float((contestants[PEER]() - contestants[OURS]()).abs().max()))
            with peers_own_warnings():
                timings = alternate(contestants, repeats=shape.repeats * (1 if task == "prefill" else 5))
            for name in base.attached:
                base.detach(name)
            for name, timing in timings.items():
                curves.setdefault(name, {})[size] = timing
                rows.append({"shape": shape.label, "contestant": name, "experts": size, **timing.row()})
    return rows, curves, difference


def _run(task: Task, targets: Sequence[Target], quick: bool, progress: Progress) -> Finding:
    rows, ratios, points, largest, peer = [], {}, [], 0.0, False
    for shape in QUICK if quick else SHAPES:
        with using_threads(shape.threads or torch.get_num_threads()):
            found, curves, difference = _measure(task, shape, progress)
        rows += found
        largest = max(largest, difference)
        for name, timings in curves.items():
            points += growth(f"{shape.label}, {name}", "experts", timings)
        for size in shape.sizes:
            ours = curves[OURS][size].least
            ratios[f"{shape.label}_{size}_over_base"] = ours / curves[PLAIN][size].least
            if PEER in curves:
                peer = True
                ratios[f"{shape.label}_{size}_faster_than_peft"] = curves[PEER][size].least / ours
                ratios[f"{shape.label}_{size}_peft_over_base"] = curves[PEER][size].least / curves[PLAIN][size].least
    if peer:
        ratios["largest_difference"] = largest
    notes = (f"top {TOP_K}; ranks: 8 on toy with one thread, 16 on smollm2-135m", *(() if peer else (NO_PEFT,)))
    roles = {"ours": OURS, "peer": PEER, "base": PLAIN}
    return Finding(rows, ratios, targets, largest if peer else None, notes, points, roles)


def _profiled(task: Task, quick: bool) -> dict[str, Callable[[], object]]:
    shape = QUICK[0] if quick else SHAPES[0]
    base, size = shape.make(), 8 if quick else 32
    with tempfile.TemporaryDirectory() as folder:
        library = fill_library(base, Path(folder) / "library", size, shape.rank)
        prompts = torch.zeros(_TEXTS, shape.tokens, dtype=torch.long)
        run = (our_prompt if task == "prefill" else our_step)(arrow_mix(base, library, library.names()), prompts)
        run()  # experts are read on first use
    return {f"{task} with {size} experts on toy": run}


V1 = Bench(
    "V1",
    "two experts a token (Arrow) of 2 to 64, prefill of 4 x 128 tokens, toy and smollm2-135m, against PEFT's Arrow",
    "toy: with 16 experts at least 4x faster than PEFT, with 32 at least 6x; at most 2x base with 32",
    functools.partial(
        _run,
        "prefill",
        (
            Target("toy_16_faster_than_peft", "at least", 4.0),
            Target("toy_32_faster_than_peft", "at least", 6.0),
            Target("toy_32_over_base", "at most", 2.0),
        ),
    ),
    peers=("peft",),
    profiled=functools.partial(_profiled, "prefill"),
)

V2 = Bench(
    "V2",
    "two experts a token (Arrow) of 2 to 64, a step of decoding 4 texts, toy and smollm2-135m, against PEFT's Arrow",
    "toy: at least 2.5x faster than PEFT with 16 experts and more",
    functools.partial(
        _run,
        "decode",
        tuple(Target(f"toy_{size}_faster_than_peft", "at least", 2.5) for size in (16, 32, 64)),
    ),
    peers=("peft",),
    profiled=functools.partial(_profiled, "decode"),
)
