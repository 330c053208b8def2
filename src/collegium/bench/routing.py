"""V10: posterior bookkeeping a token, against one decode step of the base."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from collegium.bench.curves import growth
from collegium.bench.ensembles import decoder
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.models import bench_base
from collegium.bench.timing import alternate
from collegium.core.protocols import Context, PrefixRouter, RouterState
from collegium.core.randomness import generator
from collegium.models import BASE_ROWS
from collegium.ops.posterior import mix_log_probs
from collegium.routers import posterior

EXPERTS = (2, 8, 32, 64)
_STEPS = 100


def bookkeeping(router: PrefixRouter, state: RouterState, token: Tensor, said: Tensor) -> Tensor:
    """Return the mixture's log-probability of the next token, as an ensemble would: step, weights, mixture."""
    routing, _ = router.step(state, token, said)
    return mix_log_probs(routing.log_weights(), said)


def _run(quick: bool, progress: Progress) -> Finding:
    base = bench_base(quick)
    prompt = torch.randint(base.vocab_size, (1, 16), generator=generator(0, "bench routing"))
    rows, ratios, curve = [], {}, {}
    for experts in EXPERTS:
        progress(f"V10: {experts} experts")
        timings = alternate(
            {"posterior": _bookkeeper(prompt, experts), "base decode step": decoder(base, [BASE_ROWS], prompt)},
            repeats=10 if quick else _STEPS,
        )
        curve[experts] = timings["posterior"]
        rows += [{"contestant": name, "experts": experts, **each.row()} for name, each in timings.items()]
        share = timings["posterior"].least / timings["base decode step"].least
        ratios[f"share_of_a_step_{experts}"] = share
    targets = (Target("share_of_a_step_8", "at most", 0.02),)
    return Finding(
        rows,
        ratios,
        targets,
        notes=(base.source, "there is no peer: PEFT has no posterior"),
        growth=growth("posterior", "experts", curve),
        roles={"ours": "posterior", "base": "base decode step"},
    )


def _bookkeeper(prompt: Tensor, experts: int) -> Callable[[], Tensor]:
    router = posterior().bind(tuple(f"expert-{number}" for number in range(experts)))
    state = router.start(Context(prompt, torch.tensor([prompt.shape[1]])))
    said = torch.randn(1, 1, experts, generator=generator(0, "bench likelihoods")) - 3
    return functools.partial(bookkeeping, router, state, prompt[:, :1], said)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    return {"a token with 8 experts": _bookkeeper(torch.zeros(1, 16, dtype=torch.long), 8)}


V10 = Bench(
    "V10",
    "posterior bookkeeping a token, given the experts' log-probabilities",
    "under 2 % of a base decode step",
    _run,
    profiled=_profiled,
)
