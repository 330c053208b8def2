"""PPO: KL-control by clipped steps, with a value head and generalised advantages  [Schulman et al. 2017; Ziegler 2019].

Every token is paid -beta ln(pi / a), the last one also the text's reward. With the value v of the text up to a token,
delta_t = r_t + v_{t+1} - v_t (gamma 1) and A_t = sum_k lambda^k delta_{t+k}. A batch is learnt from several times:

    L = -min(rho A, clip(rho, 1 - c, 1 + c) A) + 0.1 * 0.5 max((v - R)^2, (clip(v) - R)^2),   rho = pi / pi_old

Departure: the value head reads the policy's last hidden states and sends no gradient into them; advantages are in
units of their deviation over the batch, as the papers' code has it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from collegium.align.config import AlignConfig
from collegium.align.draws import Draws, Prompt
from collegium.align.lesson import Lesson, Told
from collegium.align.policy import Policy
from collegium.align.target import Solved
from collegium.train import Loss

CLIP, LAMBDA, VALUE_WEIGHT = 0.2, 0.95, 0.1


@dataclass(frozen=True, eq=False)
class Round:
    """A batch as it was drawn: each token's log pi and value then, its advantage, and what its value is to be."""

    log_old: Float[Tensor, "sample seq"]
    values: Float[Tensor, "sample seq"]
    gains: Float[Tensor, "sample seq"]
    returns: Float[Tensor, "sample seq"]


class Proximal:
    """The loss of PPO; is a `collegium.train.Companion`."""

    def __init__(
        self,
        policy: Policy,
        solved: Solved,
        prompts: Sequence[Prompt],
        *,
        config: AlignConfig,
        ends: frozenset[int] | None = None,
        told: Told = lambda step, values: None,
    ) -> None:
        """Begin with the policy as it is and a value of zero everywhere."""
        self.inner = Lesson(policy, solved, prompts, config=config, ends=ends, told=told)
        self.policy, self.passes = policy, self.inner.method.passes
        self.weight = torch.zeros(policy.state_size, requires_grad=True)
        self.bias = torch.zeros(1, requires_grad=True)
        self._draws: Draws | None = None
        self._round: Round | None = None

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """The policy's, and the value head's."""
        return {**self.policy.weights, "value.weight": self.weight, "value.bias": self.bias}

    @property
    def log_z(self) -> float:
        """The running estimate of ln Z."""
        return self.inner.log_z

    @property
    def beta(self) -> float:
        """What a nat of distance costs."""
        return self.inner.beta

    def loss(self, step: int, part: int) -> Loss:
        """Return the clipped loss of a pass over the round's texts; its first pass draws them."""
        del part
        if step % self.passes == 0 or self._draws is None or self._round is None:
            self._draws, self._round = self._collect(step)
        draws, known = self._draws, self._round
        with self.policy.reading(draws):
            log_policy = self.policy.learn(draws)
            values = self._values(draws)
        read = draws.scored
        ratio = (log_policy - known.log_old).exp()
        gained = torch.minimum(ratio * known.gains, ratio.clamp(1 - CLIP, 1 + CLIP) * known.gains)
        near = known.values + (values - known.values).clamp(-CLIP, CLIP)
        missed = torch.maximum((values - known.returns).square(), (near - known.returns).square())
        total = (-gained + VALUE_WEIGHT * 0.5 * missed)[read].sum()
        return Loss(total, int(read.sum()))

    def _collect(self, step: int) -> tuple[Draws, Round]:
        """Return a round's texts, drawn from the policy as it is, and what their tokens are worth."""
        draws = self.inner.batches.draw(self.policy.speaker(), step, trunk=self.policy.trunk)
        with torch.no_grad(), self.policy.reading(draws):
            log_old = self.policy.learn(draws)
            log_a = self.inner.target.reference.score(draws.tokens, lengths=draws.lengths, context=draws.context).cpu()
            signals = self.inner.signals(draws, log_old.double().sum(-1))
            values = self._values(draws)
        self.inner.note(step, draws, signals, signals.reward)
        read = draws.scored
        paid = -self.inner.beta * (log_old - log_a)
        paid[torch.arange(len(draws)), draws.lengths - 1] += signals.reward.to(paid.dtype)
        gains, returns = advantages_along(paid, values, read)
        spread = gains[read]
        gains = (gains - spread.mean()) / (spread.std(correction=0) + 1e-8)
        return draws, Round(log_old, values, gains, returns)

    def _values(self, draws: Draws) -> Float[Tensor, "sample seq"]:
        """Return the value of each text before each of its tokens."""
        before = self.policy.states(draws)[:, :-1] @ self.weight + self.bias
        return torch.nn.functional.pad(before, (1, 0)).masked_fill(~draws.scored, 0.0)

    def after(self, step: int) -> None:
        """Move on after the last pass over a round."""
        if step % self.passes == 0:
            self.inner.after(step)

    def close(self) -> None:
        """Let go of what the lesson holds."""
        self.inner.close()

    def save(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the round that is being learnt from, and the running numbers."""
        _, numbers = self.inner.save()
        if self._draws is None or self._round is None:
            return {}, numbers
        kept = {name: each for name in _DRAWN if (each := getattr(self._draws, name)) is not None}
        return {**kept, **{each.name: getattr(self._round, each.name) for each in fields(Round)}}, numbers

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Be as at an earlier `save`."""
        self.inner.restore({}, numbers)
        if tensors:
            self._draws = Draws(**{name: tensors[name] for name in _DRAWN if name in tensors}, samples=())
            self._round = Round(**{each.name: tensors[each.name] for each in fields(Round)})


_DRAWN = ("tokens", "context", "lengths", "log_proposal", "prompt", "trunk")


def advantages_along(
    paid: Float[Tensor, "sample seq"], values: Float[Tensor, "sample seq"], read: Bool[Tensor, "sample seq"]
) -> tuple[Float[Tensor, "sample seq"], Float[Tensor, "sample seq"]]:
    """Return each token's generalised advantage, and what its value is to be: advantage plus value.

    >>> paid, values = torch.tensor([[0.0, 0.0, 1.0]]), torch.tensor([[0.5, 0.5, 0.5]])
    >>> gains, returns = advantages_along(paid, values, torch.ones(1, 3, dtype=torch.bool))
    >>> gains
    tensor([[0.4512, 0.4750, 0.5000]])
    """
    gains, later, next_value = torch.zeros_like(paid), torch.zeros(len(paid)), torch.zeros(len(paid))
    for place in range(paid.shape[1] - 1, -1, -1):
        here = read[:, place]
        delta = paid[:, place] + next_value - values[:, place]
        later = torch.where(here, delta + LAMBDA * later, later)
        gains[:, place] = torch.where(here, later, 0.0)
        next_value = torch.where(here, values[:, place], next_value)
    return gains, gains + values
