"""Texts of a target without training: quasi-rejection sampling, importance resampling, best of n.

* Quasi-rejection accepts x ~ q with probability min(1, P / (beta q))  [Eikema et al. 2022]: nearer to p and rarer as
  beta grows; where beta is the largest ratio there is, exactly p.
* Resampling draws again from texts of q with weights P / q: with fewer effective texts than are asked for, many twice.
* Best of n keeps of n texts the one with the highest reward: KL(pi || a) is at most ln n - (n - 1) / n
  [Beirami et al. 2024], and exactly that where no two texts have equal rewards and each is unlikely.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from collegium.align.draws import Drawing, Draws, Prompt, draw, join_draws
from collegium.align.target import Target
from collegium.core.errors import ConfigError, TargetError
from collegium.core.protocols import LanguageModel
from collegium.ops.matching import effective_sample_size
from collegium.ops.rejection import acceptance_rate, accepted, beta_for, distance, divergence

_PILOT = 4
"""Batches from which beta is chosen."""


@dataclass(frozen=True, eq=False)
class Sampled:
    """Texts, and how near their distribution is to the target's.

    drawn: texts of the proposal that it took. acceptance: the share that is kept. tv, kl: total variation and
    KL(p || .) of the target and what the texts are drawn from, estimated from all texts of the proposal; None where it
    has no name. effective: the effective sample size of the proposal's texts.
    """

    draws: Draws
    drawn: int
    acceptance: float
    effective: float
    log_beta: float | None = None
    tv: float | None = None
    kl: float | None = None


def quasi_rejection(
    target: Target,
    proposal: LanguageModel,
    prompt: Prompt,
    *,
    many: int,
    rate: float = 0.05,
    most: int = 20_000,
    drawing: Drawing,
    random: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Sampled:
    """Return texts accepted at the largest beta that accepts a share `rate`, chosen on the first batches.

    most: texts of the proposal that are drawn at most; fewer than `many` texts may come back.

    Raises ConfigError for impossible numbers, TargetError when no text has any probability under the target.
    """
    if not 0 < rate <= 1 or many < 1 or most < drawing.batch:
        raise ConfigError(
            f"--rate lies in (0, 1], --samples is at least 1, --most at least a batch ({drawing.batch}); got {rate}, "
            f"{many} and {most}."
        )
    parts, ratios, log_beta = [], [], math.nan
    kept = 0
    while kept < many and sum(map(len, parts)) + drawing.batch <= most:
        part = draw(proposal, [prompt] * drawing.batch, drawing=drawing, random=random)
        parts.append(part)
        ratios.append(target.log_score(part) - part.log_proposal)
        if len(parts) <= _PILOT:
            log_beta = beta_for(torch.cat(ratios), rate)
        if not math.isnan(log_beta):
            kept = int(acceptance_rate(torch.cat(ratios), log_beta) * sum(map(len, parts)))
        if progress is not None:
            progress(min(kept, many))
    every, log_ratios = join_draws(parts), torch.cat(ratios)
    if math.isnan(log_beta):
        raise TargetError(
            f"none of {len(every)} texts has any probability under the target, so that none can be accepted. Take a "
            "proposal that is nearer: another prompt, an expert or an aligned policy as --model."
        )
    rows = accepted(log_ratios, log_beta, random=random).nonzero()[:, 0][:many]
    return Sampled(
        every.take(rows),
        len(every),
        acceptance_rate(log_ratios, log_beta),
        effective_sample_size(log_ratios),
        log_beta,
        distance(log_ratios, log_beta),
        divergence(log_ratios, log_beta),
    )


def resampled(
    target: Target,
    proposal: LanguageModel,
    prompt: Prompt,
    *,
    many: int,
    drawn: int,
    drawing: Drawing,
    random: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Sampled:
    """Return texts drawn again, with replacement, from texts of a proposal by their weights P / q."""
    every = draw(proposal, [prompt] * drawn, drawing=drawing, random=random, progress=progress)
    log_ratios = target.log_score(every) - every.log_proposal
    effective = effective_sample_size(log_ratios)
    if not effective:
        raise TargetError(f"none of {drawn} texts has any probability under the target; take a nearer proposal.")
    rows = torch.multinomial(log_ratios.softmax(0), many, replacement=True, generator=random)
    return Sampled(every.take(rows), drawn, effective / drawn, effective)


def best_of(
    target: Target,
    proposal: LanguageModel,
    prompt: Prompt,
    *,
    many: int,
    of: int,
    drawing: Drawing,
    random: torch.Generator,
    progress: Callable[[int], None] | None = None,
) -> Sampled:
    """Return for each of `many` groups of `of` texts the one that the target's features pay best, the first of equals.

    `kl` is the bound on KL(pi || a).
    """
    if of < 1:
        raise ConfigError(f"--best-of takes one text or more, got {of}.")
    every = draw(proposal, [prompt] * (many * of), drawing=drawing, random=random, progress=progress)
    rewards = target.rewards(target.values(every.samples)).view(many, of)
    rows = torch.arange(many) * of + rewards.argmax(1)
    return Sampled(every.take(rows), len(every), 1 / of, float(len(every)), kl=best_of_bound(of))


def best_of_bound(of: int) -> float:
    """Return ln n - (n - 1) / n, what best of n can be away from the original at most, in nats.

    >>> best_of_bound(1), round(best_of_bound(8), 4)
    (0.0, 1.2044)
    """
    return math.log(of) - (of - 1) / of
