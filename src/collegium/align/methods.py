"""One table of methods: what a text is paid, which baseline is taken off, who proposes the texts.

Every row is a policy gradient, mean_q[A(x) grad log pi(x)] with A = (pi / q) (R - B), q the proposal.

reward   what R is: `reward` the target's features, `score` P(x), `control` the features less beta ln(pi / a), or a row
         of `DIVERGENCES`: -f'(pi / p).
baseline what B is: 0; 1, the mean of p / pi under pi, which is the paper's Z where rewards are P / pi; the batch's
         mean; the mean of the prompt's other texts; or the prompt's mean, and A in units of its spread.
proposal the policy itself, or `adaptive`: an earlier policy, in place of which the policy comes once it is closer to p.
z        whether there is one Z, a running mean over all updates, or one a prompt, from its own texts.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.ops.divergences import DIVERGENCES

Baseline = Literal["none", "one", "mean", "others", "group", "value"]
Proposal = Literal["policy", "adaptive"]


@dataclass(frozen=True)
class AlignMethod:
    """A row of `METHODS`; see the module. steps: how often each batch is learnt from."""

    reward: str
    baseline: Baseline
    proposal: Proposal
    paper: str
    summary: str
    z: Literal["all", "prompt"] = "all"
    passes: int = 1
    claims: tuple[str, ...] = ()

    @property
    def matches(self) -> bool:
        """Whether it is moved to the target's distribution, and not to the highest reward."""
        return self.reward in DIVERGENCES

    @property
    def bounded(self) -> bool:
        """Whether what the target forbids has a finite reward."""
        return not self.matches or DIVERGENCES[self.reward].bounded


METHODS: Mapping[str, AlignMethod] = {
    "reinforce": AlignMethod("reward", "none", "policy", "williams1992reinforce", "E[reward] up, no more"),
    "reinforce_p": AlignMethod("score", "none", "policy", "khalifa2021gdc", "E[P] up: the likeliest text"),
    "rloo": AlignMethod("reward", "others", "policy", "ahmadian2024rloo", "reinforce against the prompt's other texts"),
    "grpo": AlignMethod("reward", "group", "policy", "shao2024grpo", "reinforce in units of the prompt's spread"),
    "kl_control": AlignMethod("control", "mean", "policy", "ziegler2019finetuning", "reward less beta KL(pi || a)"),
    "ppo": AlignMethod(
        "control", "value", "policy", "schulman2017ppo", "kl_control by clipped steps and a value head", passes=4
    ),
    "dpg": AlignMethod("forward_kl", "none", "policy", "parshakova2019dpg", "distribution matching, on-policy"),
    "dpg++": AlignMethod("forward_kl", "one", "policy", "korbak2022baseline", "the same with a baseline"),
    "gdc": AlignMethod("forward_kl", "none", "adaptive", "khalifa2021gdc", "distribution matching, off-policy"),
    "gdc++": AlignMethod("forward_kl", "one", "adaptive", "korbak2022baseline", "the same with a baseline"),
    "cdpg": AlignMethod(
        "forward_kl", "one", "policy", "korbak2022cdpg", "distribution matching for each prompt by itself", z="prompt"
    ),
    "fdpg-forward_kl": AlignMethod("forward_kl", "mean", "policy", "go2023fdpg", "f-DPG by KL(p || pi)"),
    "fdpg-reverse_kl": AlignMethod("reverse_kl", "mean", "policy", "go2023fdpg", "f-DPG by KL(pi || p)"),
    "fdpg-total_variation": AlignMethod("total_variation", "mean", "policy", "go2023fdpg", "f-DPG by total variation"),
    "fdpg-jensen_shannon": AlignMethod("jensen_shannon", "mean", "policy", "go2023fdpg", "f-DPG by Jensen-Shannon"),
    "fdpg-chi2": AlignMethod("chi2", "mean", "policy", "go2023fdpg", "f-DPG by chi2(p || pi)"),
    "fdpg-reverse_chi2": AlignMethod("reverse_chi2", "mean", "policy", "go2023fdpg", "f-DPG by chi2(pi || p)"),
}


@dataclass(frozen=True, eq=False)
class Signals:
    """What is known of a batch of texts when it is learnt from; log-probabilities of whole texts, without gradient.

    reward: what the target's features pay. log_z: of each text, its prompt's or all texts'. log_scale: a constant near
    the largest log P, so that P is a number. beta: what `control` takes a nat of distance for.
    """

    log_policy: Float[Tensor, " sample"]
    log_proposal: Float[Tensor, " sample"]
    log_reference: Float[Tensor, " sample"]
    log_target: Float[Tensor, " sample"]
    reward: Float[Tensor, " sample"]
    prompt: Int[Tensor, " sample"]
    log_z: Float[Tensor, " sample"]
    log_scale: float = 0.0
    beta: float = 0.0

    @property
    def ratios(self) -> Float[Tensor, " sample"]:
        """pi / q."""
        return (self.log_policy - self.log_proposal).exp()


def advantages(method: AlignMethod, signals: Signals) -> Float[Tensor, " sample"]:
    """Return A(x) of every text: the policy goes up mean[A grad log pi].

    With baseline 1 and rewards p / pi this is P / (Z q) - pi / q, the paper's advantage over Z  [papers.md 3.3].
    """
    if method.reward == "forward_kl":  # of p / q itself, which is exact where pi is far from p
        own = (signals.log_target - signals.log_z - signals.log_proposal).exp()
        return own - signals.ratios * _BASELINES[method.baseline](rewards(method, signals), signals)
    paid = rewards(method, signals)
    gained = paid - _BASELINES[method.baseline](paid, signals)
    if method.baseline == "group":
        gained = gained / _by_prompt(paid, signals.prompt, lambda own: own.std(correction=0).expand_as(own) + 1e-6)
    return signals.ratios * gained


def rewards(method: AlignMethod, signals: Signals) -> Float[Tensor, " sample"]:
    """Return R(x) of every text."""
    if method.reward == "reward":
        return signals.reward
    if method.reward == "score":
        return (signals.log_target - signals.log_scale).exp()
    if method.reward == "control":
        return signals.reward - signals.beta * (signals.log_policy - signals.log_reference)
    return DIVERGENCES[method.reward].reward(signals.log_policy - signals.log_target + signals.log_z)


def _by_prompt(
    values: Float[Tensor, " sample"], prompt: Int[Tensor, " sample"], change: Callable[[Tensor], Tensor]
) -> Float[Tensor, " sample"]:
    """Return what a function makes of each prompt's values, in their places."""
    found = torch.empty_like(values)
    for number in prompt.unique():
        own = prompt == number
        found[own] = change(values[own])
    return found


def _others_mean(values: Float[Tensor, " sample"]) -> Float[Tensor, " sample"]:
    many = len(values)
    return (values.sum() - values) / (many - 1) if many > 1 else torch.zeros_like(values)


def _mean(paid: Float[Tensor, " sample"], signals: Signals) -> Float[Tensor, " sample"]:
    ratios = signals.ratios
    return ((ratios * paid).sum() / ratios.sum()).expand_as(paid)


_BASELINES: Mapping[str, Callable[[Tensor, Signals], Tensor]] = {
    "none": lambda paid, signals: torch.zeros_like(paid),
    "one": lambda paid, signals: torch.ones_like(paid),
    "mean": _mean,
    "others": lambda paid, signals: _by_prompt(paid, signals.prompt, _others_mean),
    "group": lambda paid, signals: _by_prompt(paid, signals.prompt, lambda own: own.mean().expand_as(own)),
}
