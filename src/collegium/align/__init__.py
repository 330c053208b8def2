"""Moving a language model to a reward or to a distribution, without losing what it was."""

from collegium.align.config import AlignConfig
from collegium.align.dpo import fit_preferences, pair_draws
from collegium.align.draws import Drawing, Draws, Prompt, as_prompt, draw
from collegium.align.fit import Moved, align
from collegium.align.methods import METHODS, AlignMethod
from collegium.align.metrics import Metrics, Pool, kl_to_target, measure
from collegium.align.policy import AdapterPolicy, Policy
from collegium.align.sampling import Sampled, best_of, best_of_bound, quasi_rejection, resampled
from collegium.align.target import Constraint, Moment, Solved, Target, Tilt, solved
from collegium.align.whole import WholePolicy

__all__ = [
    "METHODS",
    "AdapterPolicy",
    "AlignConfig",
    "AlignMethod",
    "Constraint",
    "Drawing",
    "Draws",
    "Metrics",
    "Moment",
    "Moved",
    "Policy",
    "Pool",
    "Prompt",
    "Sampled",
    "Solved",
    "Target",
    "Tilt",
    "WholePolicy",
    "align",
    "as_prompt",
    "best_of",
    "best_of_bound",
    "draw",
    "fit_preferences",
    "kl_to_target",
    "measure",
    "pair_draws",
    "quasi_rejection",
    "resampled",
    "solved",
]
