"""How fast this machine is, measured before anything is promised."""

import statistics
import time
from collections.abc import Callable

import torch

from collegium.core.routing import BASE
from collegium.experts import FitConfig
from collegium.experts.fresh import fresh_adapter
from collegium.experts.objective import computing_in
from collegium.experts.recipe import resolve
from collegium.experts.whole_fit import branch
from collegium.infer import HeldOut
from collegium.models import Base, RowPlan
from collegium.recipes.watch import Watch


def tokens_per_second(base: Base, fit: FitConfig, *, repeats: int = 5) -> float:
    """Return the training tokens a second of one expert on this machine: the median of whole steps, packed."""
    tokens = torch.randint(0, base.vocab_size, (fit.batch, fit.window), generator=torch.Generator().manual_seed(0))
    segments = (torch.arange(fit.window) >= fit.window // 2).long().expand(fit.batch, -1)
    name = "speed-probe"
    adapter = fresh_adapter(base, resolve(fit), name, tokens=tokens)
    optimiser = torch.optim.AdamW([each for part in adapter.values() for each in part.tensors.values()], fused=True)
    base.attach(name, adapter)

    def step() -> None:
        base.token_nats(tokens, segments=segments, plan=RowPlan.one(name)).sum().backward()
        optimiser.step()
        optimiser.zero_grad()

    try:
        return tokens.numel() / _seconds(step, base, repeats=repeats)
    finally:
        base.detach(name)


def whole_tokens_per_second(base: Base, fit: FitConfig) -> float:
    """Return the training tokens a second of a whole model on this machine."""
    model = branch(base, (), {BASE: 1.0}, name="speed-probe")
    model.model.requires_grad_(True)
    tokens = torch.randint(0, base.vocab_size, (fit.batch, fit.window), generator=torch.Generator().manual_seed(0))

    def step() -> None:
        with computing_in(base.dtype, model):
            nats = model.token_nats(tokens)
        nats.sum().backward()

    return tokens.numel() / _seconds(step, base, repeats=1)


def scoring_tokens_per_second(base: Base, *, window: int = 128, batch: int = 4) -> float:
    """Return the tokens a second that the base alone scores on this machine."""
    tokens = torch.randint(0, base.vocab_size, (batch, window), generator=torch.Generator().manual_seed(0))
    return tokens.numel() / _seconds(lambda: base.score(tokens), base, repeats=3)


def _seconds(work: Callable[[], object], base: Base, *, repeats: int) -> float:
    """Return the median seconds of a piece of work, after one that is not counted."""

    def timed() -> float:
        start = time.perf_counter()
        work()
        torch.zeros((), device=base.device).item()  # waits until the device is done
        return time.perf_counter() - start

    timed()
    return statistics.median(timed() for _ in range(repeats))


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
