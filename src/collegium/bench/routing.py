"""V10: posterior bookkeeping a token, against one decode step of the base."""

import functools

import torch
from torch import Tensor

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
    base, drawing = bench_base(quick), generator(0, "bench routing")
    prompt = torch.randint(base.vocab_size, (1, 16), generator=drawing)
    token, rows, ratios = prompt[:, :1], [], {}
    for experts in EXPERTS:
        progress(f"V10: {experts} experts")
        router = posterior().bind(tuple(f"expert-{number}" for number in range(experts)))
        state = router.start(Context(prompt, torch.tensor([prompt.shape[1]])))
        said = torch.randn(1, 1, experts, generator=drawing) - 3
        timings = alternate(
            {
                "posterior": functools.partial(bookkeeping, router, state, token, said),
                "base decode step": decoder(base, [BASE_ROWS], prompt),
            },
            repeats=10 if quick else _STEPS,
        )
        rows += [{"contestant": name, "experts": experts, **each.row()} for name, each in timings.items()]
        share = timings["posterior"].least / timings["base decode step"].least
        ratios[f"share_of_a_step_{experts}"] = share
    targets = (Target("share_of_a_step_8", "at most", 0.02),)
    return Finding(rows, ratios, targets, notes=(base.source,))


V10 = Bench(
    "V10",
    "posterior bookkeeping a token, given the experts' log-probabilities",
    "under 2 % of a base decode step",
    _run,
)
