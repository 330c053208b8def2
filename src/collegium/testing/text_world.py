"""A space of a few texts as tables: an original, a target, a policy, a proposal, whose sums are exact."""

import math

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.methods import AlignMethod, Signals, advantages
from collegium.core.randomness import generator
from collegium.ops.divergences import DIVERGENCES

Texts = Float[Tensor, " text"]


class TextWorld:
    """All texts of a small space, drawn at random.

    log_a, log_q: of an original and a proposal. logits: of a policy, with gradient. reward: of each text. log_target:
    a exp(reward / beta), nothing for texts that are forbidden. log_z: its sum.
    """

    def __init__(self, seed: int, *, texts: int = 15, beta: float = 0.7, forbids: bool = False) -> None:
        """Draw a world; `forbids`: texts of a high reward have no probability under the target."""
        drawn = torch.randn(4, texts, generator=generator(seed, "text world"), dtype=torch.float64)
        self.log_a, self.log_q = drawn[0].log_softmax(0), drawn[1].log_softmax(0)
        self.logits = drawn[2].clone().requires_grad_()
        self.reward, self.beta = drawn[3], beta
        factor = self.reward / beta
        self.log_target = self.log_a + (factor.masked_fill(self.reward > 0.5, -math.inf) if forbids else factor)
        self.log_z = torch.logsumexp(self.log_target, 0)

    @property
    def log_pi(self) -> Texts:
        """The policy, with gradient."""
        return self.logits.log_softmax(0)

    @property
    def log_p(self) -> Texts:
        """The target, normalised."""
        return self.log_target - self.log_z

    def signals(self, *, on_policy: bool, log_policy: Texts | None = None) -> Signals:
        """Return what a method is told of every text, each once; of another policy where one is given."""
        log_pi = self.log_pi.detach() if log_policy is None else log_policy
        return Signals(
            log_pi,
            log_pi if on_policy else self.log_q,
            self.log_a,
            self.log_target,
            self.reward,
            torch.zeros(len(log_pi), dtype=torch.long),
            self.log_z.expand(len(log_pi)),
            float(self.log_target.max()),
            self.beta,
        )

    def mean_gradient(self, method: AlignMethod, *, on_policy: bool) -> Texts:
        """Return the exact mean under the proposal of A(x) grad log pi(x)."""
        signals = self.signals(on_policy=on_policy)
        weights = signals.log_proposal.exp() * advantages(method, signals)
        return self.gradient_of((weights * self.log_pi).sum())

    def gradient_of(self, value: Float[Tensor, ""]) -> Texts:
        """Return the slope of a number by the policy's logits."""
        return torch.autograd.grad(value, self.logits)[0]

    def divergence(self, name: str) -> Float[Tensor, ""]:
        """Return a divergence of policy and target, with gradient."""
        kept = self.log_p > -math.inf
        terms = self.log_p[kept].exp() * DIVERGENCES[name].value((self.log_pi - self.log_p)[kept])
        return terms.sum()

    def controlled(self) -> Float[Tensor, ""]:
        """Return E_pi[reward - beta ln(pi / a)], with gradient."""
        log_pi = self.log_pi
        return (log_pi.exp() * (self.reward - self.beta * (log_pi - self.log_a))).sum()
