"""V13: requests with an expert each, continued together by the engine, against one after another."""

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.models import attach_experts, bench_base
from collegium.bench.timing import alternate
from collegium.core.randomness import generator
from collegium.core.routing import BASE
from collegium.infer import Engine, Said, Sampling
from collegium.models import Base

REQUESTS = (1, 4, 8, 16)
TOGETHER, APART, PLAIN = "together", "one after another", "base"
_PROMPTS = (8, 16, 24, 32)
_LATE = 3


@dataclass(frozen=True)
class Asked:
    """A request: a prompt for one expert."""

    prompt: tuple[int, ...]
    expert: str


def asked(base: Base, experts: Sequence[str]) -> list[Asked]:
    """Return one request per expert, with prompts of several lengths."""
    draw = generator(0, "bench requests")
    lengths = [_PROMPTS[number % len(_PROMPTS)] for number in range(len(experts))]
    prompts = [torch.randint(base.vocab_size, (length,), generator=draw).tolist() for length in lengths]
    return [Asked(tuple(prompt), name) for prompt, name in zip(prompts, experts, strict=True)]


Written = list[list[tuple[int, float]]]
"""Each request's new tokens and their log-probabilities."""


def together(base: Base, requests: Sequence[Asked], sampling: Sampling, *, late: int = 0) -> tuple[Written, Engine]:
    """Return what each request gets and the engine; all are there from the start but the last one, `late` steps on."""
    engine, coming, numbers, steps = Engine(base), list(requests), [], 0
    written: dict[int, list[tuple[int, float]]] = {}
    while coming or engine.busy:
        while coming and (len(coming) > 1 or steps >= late):
            each = coming.pop(0)
            numbers.append(engine.add_request(each.prompt, model=each.expert, sampling=sampling))
        for event in engine.step():
            if isinstance(event, Said):
                written.setdefault(event.request, []).append((event.token, event.log_prob))
        steps += 1
    return [written[number] for number in numbers], engine


def apart(base: Base, requests: Sequence[Asked], sampling: Sampling) -> Written:
    """Return what each request gets alone, one after another."""
    return [together(base, [each], sampling)[0][0] for each in requests]


def difference(ones: Written, others: Written) -> float:
    """Return the largest difference of a token's log-probability; infinite where other tokens were written."""
    pairs = [pair for one, other in zip(ones, others, strict=True) for pair in zip(one, other, strict=False)]
    same = [len(one) for one in ones] == [len(other) for other in others] and all(a[0] == b[0] for a, b in pairs)
    return max(abs(a[1] - b[1]) for a, b in pairs) if same else float("inf")


def _settings(quick: bool) -> tuple[Sampling, int]:
    return Sampling(tokens=6 if quick else 32, temperature=0.0), 1 if quick else 3


def _run(quick: bool, progress: Progress) -> Finding:
    base = bench_base(quick)
    requests = asked(base, attach_experts(base, max(REQUESTS), quick=quick))
    sampling, repeats = _settings(quick)
    progress("V13: outputs compared")
    alone = apart(base, requests, sampling)
    joint, engine = together(base, requests, sampling)
    late, _ = together(base, requests, sampling, late=_LATE)
    ratios = {
        "late_arrival_difference": difference(late[:-1], alone[:-1]),
        "tokens_read_twice": float(engine.stats.read_tokens - sum(len(each.prompt) for each in requests)),
    }
    rows, curves = [], {}
    for many in REQUESTS:
        progress(f"V13: {many} requests")
        some = requests[:many]
        contestants: dict[str, Callable[[], object]] = {
            PLAIN: functools.partial(together, base, [Asked(each.prompt, BASE) for each in some], sampling),
            TOGETHER: functools.partial(together, base, some, sampling),
            APART: functools.partial(apart, base, some, sampling),
        }
        timings = alternate(contestants, repeats=repeats)
        tokens = sum(map(len, alone[:many]))
        for name, timing in timings.items():
            curves.setdefault(name, {})[many] = timing
            rows.append({"contestant": name, "requests": many, "new_tokens": tokens, **timing.row()})
        ratios[f"faster_{many}"] = timings[APART].least / timings[TOGETHER].least
        ratios[f"over_base_{many}"] = timings[TOGETHER].least / timings[PLAIN].least
    for name in (TOGETHER, APART):
        ratios[f"tokens_per_second_{name.split()[0]}_16"] = sum(map(len, alone)) / curves[name][max(REQUESTS)].least
    points = [point for name, timings in curves.items() for point in growth(name, "requests", timings)]
    roles = {"ours": TOGETHER, "peer": APART, "base": PLAIN}
    return Finding(rows, ratios, _TARGETS, difference(joint, alone), (base.source,), points, roles)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    base = bench_base(quick)
    requests = asked(base, attach_experts(base, max(REQUESTS), quick=quick))
    return {f"{len(requests)} requests": functools.partial(together, base, requests, _settings(quick)[0])}


_TARGETS = (
    Target("faster_16", "at least", 5.0),
    Target("late_arrival_difference", "at most", 1e-4),
    Target("tokens_read_twice", "at most", 0.0),
)

V13 = Bench(
    "V13",
    "engine: 1, 4, 8, 16 requests with an expert each, 32 new tokens, together against one after another",
    "16 requests at least 5x tokens/s; a late arrival changes no other row; nothing is read twice",
    _run,
    profiled=_profiled,
)
