"""Before a policy is moved: how far the target is from the original, and whether the budget can reach it."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from collegium.align.config import AlignConfig
from collegium.align.draws import Draws
from collegium.align.metrics import Pool
from collegium.align.target import Solved, Target, solved
from collegium.core.errors import TargetError

ENOUGH, HOPELESS = 100, 10
"""Texts of the target in the whole budget: about as many as a policy needs, and fewer than it can learn from."""

WAY_OUT = (
    "Begin where it is likelier: another --prompt; an expert or an aligned policy that says it more often as --model, "
    "or as --proposal where the original is to stay what it is; or give more --samples"
)


@dataclass(frozen=True)
class Preflight:
    """What the texts drawn from the original model say of a target.

    share: of the original's texts that count for the target, its effective sample size by all. needed: how many texts
    a policy is likely to need.
    """

    solved: Solved
    pool: Pool
    share: float
    needed: int

    def lines(self) -> list[str]:
        """Return what a person should know before it begins."""
        base = ", ".join(
            f"{name} {value:.3g} (wanted {self.solved.moments[name]:.3g})" for name, value in self.solved.base.items()
        )
        return [
            f"{self.solved.texts} texts, the original model's means: {base}",
            f"the target is {self.solved.moved:.2f} nats from it; {100 * self.share:.1f} % of these texts count for "
            f"it, so about {self.needed:,} texts are likely to be needed",
        ]

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {
            "texts": self.solved.texts,
            "base": dict(self.solved.base),
            "wanted": dict(self.solved.moments),
            "log_z": self.solved.log_z,
            "nats": self.solved.moved,
            "effective": self.solved.effective,
            "needed": self.needed,
        }


def look_ahead(target: Target, draws: Draws) -> Preflight:
    """Return what texts of the original model say of a target; raises TargetError for one that they do not reach."""
    values = target.values(draws.samples)
    try:
        found = solved(target, draws, values=values)
    except TargetError as error:
        raise TargetError(f"{str(error).rstrip('.')}. {WAY_OUT}.") from error
    share = found.effective / found.texts
    return Preflight(found, Pool.of(found, draws, values), share, round(ENOUGH / share))


def check_reach(found: Preflight, config: AlignConfig, *, force: bool, say: Callable[[str], None]) -> None:
    """Warn where the budget is small for a target; raise TargetError where it is hopeless, unless it is forced."""
    counted = found.share * config.samples
    if counted >= ENOUGH:
        return
    told = (
        f"of {config.samples:,} texts about {counted:.0f} will count for the target, and a policy is likely to need "
        f"{ENOUGH}"
    )
    if counted < HOPELESS and not force:
        raise TargetError(f"{told}: that is hopeless. {WAY_OUT} (about {found.needed:,}); --force begins nevertheless.")
    say(f"warning: {told}; give --samples {found.needed} or begin where it is likelier")
