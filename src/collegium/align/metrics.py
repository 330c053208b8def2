"""What a policy is like: how near the target, how far from the original, how diverse, and how sure that is.

Distances to p are sums over texts of p, which are drawn once, from the original model, and weighed:
KL(p || pi) = sum_i w_i (ln p - ln pi), TV = sum_i w_i max(0, 1 - pi / p); so a curve along training has one noise.
Distances from a, moments and diversity are means over fresh texts of the policy. Intervals are bootstraps over texts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.diversity import distinct_each, self_bleu_each
from collegium.align.draws import Draws
from collegium.align.target import Solved, Target, Values
from collegium.core.protocols import LanguageModel
from collegium.core.samples import plain_text
from collegium.infer import HeldOut, score_text, window_nats
from collegium.ops.intervals import Interval, bootstrap_interval, perplexity_interval, weighted_interval


@dataclass(frozen=True, eq=False)
class Pool:
    """Texts drawn once, from the original model or a proposal, and what the target makes of them.

    log_reference: log a of each. log_target: log P. log_z: of P.
    """

    draws: Draws
    values: Values
    log_reference: Float[Tensor, " sample"]
    log_target: Float[Tensor, " sample"]
    log_z: float

    @staticmethod
    def of(solved: Solved, draws: Draws, values: Values) -> "Pool":
        """Return the pool of a solved target."""
        log_reference = draws.log_prob(solved.target.reference)
        return Pool(draws, values, log_reference, log_reference + solved.target.log_factor(values), solved.log_z)

    @property
    def kept(self) -> "Pool":
        """The texts that have any probability under the target alone."""
        rows = (self.log_target > -torch.inf).nonzero()[:, 0]
        values = {name: each[rows] for name, each in self.values.items()}
        return Pool(self.draws.take(rows), values, self.log_reference[rows], self.log_target[rows], self.log_z)

    @property
    def log_weights(self) -> Float[Tensor, " sample"]:
        """log P / q of each text."""
        return self.log_target - self.draws.log_proposal


@dataclass(frozen=True)
class Metrics:
    """What was measured of a policy, each with its 95 % interval.

    moments: by feature. kl_p_pi, tv: from the target. kl_pi_a: from the original. distinct_2, self_bleu_5: diversity.
    general_perplexity: of held-out text that has nothing to do with the target; None where none was given.
    """

    moments: Mapping[str, Interval]
    kl_p_pi: Interval
    kl_pi_a: Interval
    tv: Interval
    distinct_2: Interval
    self_bleu_5: Interval
    general_perplexity: Interval | None

    def to_dict(self) -> dict[str, object]:
        """Return plain numbers, and the intervals apart."""
        single = {name: value for name in _SINGLE if isinstance(value := getattr(self, name), Interval)}
        return plain_intervals({"moments": self.moments, **single})


def plain_intervals(found: Mapping[str, Interval | Mapping[str, Interval]]) -> dict[str, object]:
    """Return estimates as plain numbers, and under `intervals` both bounds of each.

    >>> plain_intervals({"loss": Interval(0.1, 0.2, 0.3)})
    {'loss': 0.2, 'intervals': {'loss': [0.1, 0.3]}}
    """
    numbers: dict[str, object] = {}
    bounds: dict[str, object] = {}
    for name, each in found.items():
        if isinstance(each, Interval):
            numbers[name], bounds[name] = each.estimate, [each.low, each.high]
        else:
            numbers[name] = {key: own.estimate for key, own in each.items()}
            bounds[name] = {key: [own.low, own.high] for key, own in each.items()}
    return {**numbers, "intervals": bounds}


_SINGLE = ("kl_p_pi", "kl_pi_a", "tv", "distinct_2", "self_bleu_5", "general_perplexity")


def measure(
    policy: LanguageModel, target: Target, pool: Pool, fresh: Draws, *, general: HeldOut | None = None
) -> Metrics:
    """Return what a policy is like. fresh: texts drawn from it at temperature 1."""
    gaps, weights = gaps_to_target(policy, pool)
    texts = [plain_text(each.completion) for each in fresh.samples]
    moved = fresh.log_prob(policy) - fresh.log_prob(target.reference)
    return Metrics(
        moments={name: bootstrap_interval(each) for name, each in target.values(fresh.samples).items()},
        kl_p_pi=weighted_interval(gaps, weights),
        kl_pi_a=bootstrap_interval(moved),
        tv=weighted_interval((1 - (-gaps).exp()).clamp(min=0.0), weights),
        distinct_2=bootstrap_interval(torch.tensor(distinct_each(texts, 2))),
        self_bleu_5=bootstrap_interval(torch.tensor(self_bleu_each(texts))),
        general_perplexity=None if general is None else general_perplexity(policy, general),
    )


def kl_to_target(policy: LanguageModel, pool: Pool) -> Interval:
    """Return KL(p || pi) alone: the cheapest of all, for curves."""
    gaps, weights = gaps_to_target(policy, pool)
    return weighted_interval(gaps, weights)


def gaps_to_target(policy: LanguageModel, pool: Pool) -> tuple[Float[Tensor, " text"], Float[Tensor, " text"]]:
    """Return ln p - ln pi of the pool's texts that have any probability under the target, and their weights."""
    near = pool.kept
    return near.log_target - near.log_z - near.draws.log_prob(policy), near.log_weights.softmax(0)


def general_perplexity(policy: LanguageModel, text: HeldOut) -> Interval:
    """Return the perplexity of held-out text, with its interval over windows."""
    nats, tokens = window_nats(score_text(policy, text), text).unbind(-1)
    return perplexity_interval(nats, tokens)
