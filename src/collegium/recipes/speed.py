"""How fast this machine is, measured before anything is promised."""

import statistics
import time

import torch

from collegium.core.routing import BASE
from collegium.experts import FitConfig
from collegium.experts.whole_fit import branch
from collegium.infer import HeldOut
from collegium.models import Base, LoraWeights, RowPlan
from collegium.recipes.watch import Watch


def tokens_per_second(base: Base, fit: FitConfig, *, repeats: int = 5) -> float:
    """Return the training tokens a second of one expert on this machine: the median of whole steps, packed."""
    tokens = torch.randint(0, base.vocab_size, (fit.batch, fit.window), generator=torch.Generator().manual_seed(0))
    segments = (torch.arange(fit.window) >= fit.window // 2).long().expand(fit.batch, -1)
    name, adapter = "speed-probe", zero_adapter(base, fit)
    optimiser = torch.optim.AdamW([part for each in adapter.values() for part in (each.a, each.b)], fused=True)
    base.attach(name, adapter)

    def step() -> float:
        start = time.perf_counter()
        base.token_nats(tokens, segments=segments, plan=RowPlan.one(name)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()
        return time.perf_counter() - start

    try:
        step()
        return tokens.numel() / statistics.median(step() for _ in range(repeats))
    finally:
        base.detach(name)


def whole_tokens_per_second(base: Base, fit: FitConfig) -> float:
    """Return the training tokens a second of a whole model on this machine: one step, after one that is not counted."""
    model = branch(base, (), {BASE: 1.0}, name="speed-probe")
    model.model.requires_grad_(True)
    tokens = torch.randint(0, base.vocab_size, (fit.batch, fit.window), generator=torch.Generator().manual_seed(0))
    seconds = 0.0
    for _ in range(2):
        start = time.perf_counter()
        model.token_nats(tokens).sum().backward()
        seconds = time.perf_counter() - start
    return tokens.numel() / seconds


def scoring_tokens_per_second(base: Base, *, window: int = 128, batch: int = 4) -> float:
    """Return the tokens a second that the base alone scores on this machine."""
    tokens = torch.randint(0, base.vocab_size, (batch, window), generator=torch.Generator().manual_seed(0))
    base.score(tokens)
    start = time.perf_counter()
    base.score(tokens)
    return tokens.numel() / (time.perf_counter() - start)


def scoring_plan(base: Base, text: HeldOut, *, rows: int) -> dict[str, float | int]:
    """Return what scoring held-out text would take: tokens, rows a text, measured tokens a second, seconds."""
    speed, tokens = scoring_tokens_per_second(base), int(text.lengths.sum())
    return {
        "tokens": tokens,
        "rows": rows,
        "score_tokens_per_second": round(speed, 1),
        "expected_seconds": round(tokens * rows / speed, 1),
    }


def say_scoring_plan(plan: dict[str, float | int], watch: Watch) -> None:
    """Show a plan of scoring."""
    watch.say(
        f"{plan['tokens']:,.0f} tokens in {plan['rows']:.0f} rows at {plan['score_tokens_per_second']:.0f} tokens a "
        f"second (measured): at most {plan['expected_seconds']:.0f} seconds"
    )


def zero_adapter(base: Base, fit: FitConfig) -> dict[str, LoraWeights]:
    """Return an adapter of the fit's shape that changes nothing and can be trained."""
    return {
        path: LoraWeights(
            torch.zeros(fit.rank, inputs, device=base.device, requires_grad=True),
            torch.zeros(outputs, fit.rank, device=base.device, requires_grad=True),
            1.0,
        )
        for path, (inputs, outputs) in base.linear_sites(fit.targets, fit.layers).items()
    }
