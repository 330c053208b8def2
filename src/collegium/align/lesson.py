"""What one update learns from: texts of the proposal, what the target says of them, and the policy gradient.

The lesson is the companion of a fit: the running Z, the proposal and beta are what it carries from update to update.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.align.config import AlignConfig
from collegium.align.draws import Draws, Prompt, draw
from collegium.align.methods import METHODS, Signals, advantages
from collegium.align.policy import Policy
from collegium.align.target import Solved
from collegium.core.errors import TargetError
from collegium.core.protocols import LanguageModel
from collegium.core.randomness import derive_seed, generator
from collegium.models.trunk import Trunk
from collegium.ops.matching import effective_sample_size, kl_to_policy
from collegium.train import Epochs, Loss

_REJECTED = 10
"""Batches in a row without a single text of the target after which nothing is being learnt."""
_BETA_GAIN, _BETA_STEP = 0.1, 0.2
"""How beta follows KL(pi || a)  [Ziegler et al. 2019, section 2.2]."""

Told = Callable[[int, Mapping[str, float]], None]


class Lesson:
    """The loss of a row of `METHODS`; is a `collegium.train.Companion`."""

    def __init__(
        self,
        policy: Policy,
        solved: Solved,
        prompts: Sequence[Prompt],
        *,
        config: AlignConfig,
        ends: frozenset[int] | None = None,
        proposal: LanguageModel | None = None,
        told: Told = lambda step, values: None,
    ) -> None:
        """Begin with the policy as it is.

        proposal: who proposes texts until the policy is closer to the target. told: is given what was seen of each
        update's texts.
        """
        self.policy, self.target, self.config, self.told = policy, solved.target, config, told
        self.method = METHODS[config.method]
        self.batches = Batches(tuple(prompts), config, ends)
        self.first = proposal
        self.proposal = policy.twin() if self.method.proposal == "adaptive" else policy
        self.log_total = solved.log_z + math.log(solved.texts)
        self.texts, self.beta, self.rejected = solved.texts, config.beta, 0
        self.log_scale = solved.log_scale
        self._last: tuple[Draws, Signals] | None = None
        self._seen: dict[str, float] = {}
        self._moments: dict[str, float] = {}

    @property
    def weights(self) -> Mapping[str, Tensor]:
        """What is trained: the policy's."""
        return self.policy.weights

    @property
    def log_z(self) -> float:
        """The running estimate of ln Z, over all texts drawn so far."""
        return self.log_total - math.log(self.texts)

    def loss(self, step: int, part: int) -> Loss:
        """Return the loss whose slope is the policy gradient of update `step`, downwards."""
        del part
        draws = self._texts(step)
        with self.policy.reading(draws):
            log_policy = self.policy.learn(draws).double().sum(-1)
            signals = self.signals(draws, log_policy.detach())
        gains = advantages(self.method, signals)
        gains = gains.masked_fill(signals.log_z == -math.inf, 0.0)  # a prompt none of whose texts count teaches nothing
        self.note(step, draws, signals, gains)
        return Loss(-(gains * log_policy).sum(), len(draws))

    def _texts(self, step: int) -> Draws:
        """Return texts of the proposal; at temperature 1 their log q is that of a reading, not of the drawing."""
        if self.first is None:
            return self.batches.draw(self.proposal.speaker(), step, trunk=self.policy.trunk)
        draws = self.batches.draw(self.first, step)
        return draws if self.config.temperature != 1 else replace(draws, log_proposal=draws.log_prob(self.first))

    def note(self, step: int, draws: Draws, signals: Signals, gains: Float[Tensor, " sample"]) -> None:
        """Keep what `after` needs of an update's texts, and tell what was seen of them."""
        self._last = draws, signals
        log_ratios = signals.log_target - signals.log_proposal
        self._seen = {
            "texts": len(draws),
            "log_sum": float(torch.logsumexp(log_ratios, 0)),
            "moved": float((signals.log_policy - signals.log_reference).mean()),
        }
        told = {**seen(signals, gains), "log_z": self.log_z, **self._moments, **self._scatter(step, draws, gains)}
        self.told(step + 1, told)

    def _scatter(self, step: int, draws: Draws, gains: Float[Tensor, " sample"]) -> dict[str, float]:
        """Return the variance of the gradient where it is due; it costs another reading of the batch."""
        every = self.config.variance_every
        return {"gradient_variance": gradient_variance(self.policy, draws, gains)} if every and not step % every else {}

    def signals(self, draws: Draws, log_policy: Float[Tensor, " sample"]) -> Signals:
        """Return what is known of texts drawn from the proposal."""
        values = self.target.values(draws.samples)
        self._moments = {f"moment {name}": float(each.mean()) for name, each in values.items()}
        log_reference = draws.log_prob(self.target.reference)
        log_target = log_reference + self.target.log_factor(values)
        log_proposal = self._log_proposal(draws, log_policy)
        return Signals(
            log_policy,
            log_proposal,
            log_reference,
            log_target,
            self.target.rewards(values),
            draws.prompt,
            self._log_z(draws, log_target - log_proposal),
            self.log_scale,
            self.beta,
        )

    def _log_proposal(self, draws: Draws, log_policy: Float[Tensor, " sample"]) -> Float[Tensor, " sample"]:
        """Return log q; at temperature 1 it is scored as all others are, so that rounding is alike in every ratio."""
        if self.config.temperature != 1 or self.first is not None:
            return draws.log_proposal
        return log_policy if self.proposal is self.policy else draws.log_prob(self.proposal.speaker())

    def _log_z(self, draws: Draws, log_ratios: Float[Tensor, " sample"]) -> Float[Tensor, " sample"]:
        if self.method.z == "all":
            return torch.full_like(log_ratios, self.log_z)
        found = torch.empty_like(log_ratios)
        for number in draws.prompt.unique():
            own = draws.prompt == number
            found[own] = torch.logsumexp(log_ratios[own], 0) - math.log(int(own.sum()))
        return found

    def after(self, step: int) -> None:
        """Take the last update's texts into Z, let the policy become the proposal, steer beta.

        Raises TargetError after too many batches none of whose texts has any probability under the target.
        """
        if not self._seen:
            return
        self.log_total = float(torch.logsumexp(torch.tensor([self._seen["log_sum"], self.log_total]).double(), 0))
        self.texts += int(self._seen["texts"])
        self._check_rejected()
        if self.proposal is not self.policy and step % self.config.check_every == 0:
            self._propose()
        if self.config.beta_target:
            error = (self._seen["moved"] - self.config.beta_target) / self.config.beta_target
            self.beta *= 1 + _BETA_GAIN * min(max(error, -_BETA_STEP), _BETA_STEP)

    def _check_rejected(self) -> None:
        self.rejected = 0 if self._seen["log_sum"] > -math.inf else self.rejected + 1
        if self.method.matches and self.rejected >= _REJECTED:
            raise TargetError(
                f"{self.rejected} batches of {self._seen['texts']:.0f} texts in a row had none that keeps the "
                "constraints, so that nothing is being learnt. Begin where it is likelier (another prompt, an expert "
                "as --model), draw larger batches, or ask for less."
            )

    def _propose(self) -> None:
        """Let the policy become the proposal where it is closer to the target, by KL on the proposal's last texts."""
        assert self._last is not None
        draws, signals = self._last
        with self.policy.reading(draws):
            now = draws.log_prob(self.policy.speaker())
        log_z = signals.log_z[0]
        closer, far = (
            float(kl_to_policy(signals.log_target, each, signals.log_proposal, log_z))
            for each in (now, signals.log_proposal)
        )
        if closer < far:
            self.proposal.load(self.policy.weights)
            self.first = None

    def close(self) -> None:
        """Let go of a proposal of its own."""
        if self.proposal is not self.policy:
            self.proposal.close()

    def save(self) -> tuple[Mapping[str, Tensor], Mapping[str, Any]]:
        """Return the proposal's weights, and the rest as numbers."""
        weights = {} if self.proposal is self.policy else dict(self.proposal.weights)
        return weights, {
            "log_total": self.log_total,
            "texts": self.texts,
            "beta": self.beta,
            "rejected": self.rejected,
            "first": self.first is not None,
            "seen": {name: value for name, value in self._seen.items() if math.isfinite(value)},
        }

    def restore(self, tensors: Mapping[str, Tensor], numbers: Mapping[str, Any]) -> None:
        """Be as at an earlier `save`."""
        if self.proposal is not self.policy:
            self.proposal.load(tensors)
        self.log_total, self.texts, self.beta = numbers["log_total"], numbers["texts"], numbers["beta"]
        self.rejected = numbers["rejected"]
        self.first = self.first if numbers["first"] else None
        self._seen = {"log_sum": -math.inf, **numbers["seen"]} if numbers["seen"] else {}


class Batches:
    """Which prompts an update goes on from, and its texts; a function of the update's number and of the proposal."""

    def __init__(self, prompts: tuple[Prompt, ...], config: AlignConfig, ends: frozenset[int] | None) -> None:
        """Keep the prompts. Of several, each update has `batch // per_prompt`, in a shuffled order."""
        self.prompts, self.config, self.ends = prompts, config, ends
        self.each = config.batch if len(prompts) == 1 else config.per_prompt
        order = derive_seed(config.seed, "prompts")
        self.order = Epochs(len(prompts), min(len(prompts), max(1, config.batch // self.each)), order)

    def draw(self, proposal: LanguageModel, step: int, *, trunk: Trunk | None = None) -> Draws:
        """Return the texts of an update. trunk: below which the proposal changes nothing, to note its states."""
        chosen = [self.prompts[row] for row in self.order.rows(step).tolist()]
        many = [prompt for prompt in chosen for _ in range(self.each)]
        random = generator(self.config.seed, "texts", str(step))
        return draw(proposal, many, drawing=self.config.drawing(self.ends), random=random, trunk=trunk)


def gradient_variance(policy: Policy, draws: Draws, gains: Float[Tensor, " sample"], *, parts: int = 8) -> float:
    """Return mean ||g_i||^2 - ||mean g_i||^2 of the texts' gradients g_i = A_i grad log pi, from means of parts.

    With k parts of m texts whose mean gradients are G_j, it is m k / (k - 1) times their mean squared distance from
    the mean of all.
    """
    weights, found = list(policy.weights.values()), []
    for rows in torch.arange(len(draws)).tensor_split(min(parts, len(draws))):
        part = draws.take(rows)
        log_policy = policy.learn(part).double().sum(-1)
        slopes = torch.autograd.grad((gains[rows] * log_policy).mean(), weights)
        found.append(torch.cat([slope.flatten() for slope in slopes]))
    means = torch.stack(found)
    apart = (means - means.mean(0)).square().sum(1).mean()
    return float(apart * len(draws) / max(1, len(means) - 1))


def seen(signals: Signals, gains: Float[Tensor, " sample"]) -> dict[str, float]:
    """Return what is told of an update's texts."""
    return {
        "reward": float(signals.reward.mean()),
        "kl_pi_a": float((signals.log_policy - signals.log_reference).mean()),
        "effective": effective_sample_size(signals.log_target - signals.log_proposal),
        "advantage": float(gains.mean()),
        "advantage_deviation": float(gains.std(correction=0)),
        "beta": signals.beta,
    }
