"""A gate over the outputs of a multi-objective head: softmax of a linear map of the prompt's state  [wang2024armorm].

    r(x, y) = sum_d g_d(x) r_d(x, y),   g(x) = softmax(W h(x) + b)

h(x) is the mean of the adapted base's states over the prompt, scaled to a mean square of one. Adapter and outputs are
fitted first, each output on its own domain's pairs; then the gate alone, by the Bradley-Terry loss of the weighed
rewards over all domains' pairs. Departures: the paper regresses its outputs on absolute ratings, and its gate is a
small network on the state of the prompt's last token.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.randomness import derive_seed
from collegium.data.preferences import PairDomain
from collegium.models import RowPlan
from collegium.ops.pooling import mean_of, real_tokens
from collegium.ops.preferences import bradley_terry
from collegium.rewards.config import RewardConfig
from collegium.rewards.fit import Lesson
from collegium.rewards.judges import AdapterJudges, Standards
from collegium.rewards.pairs import EncodedPairs
from collegium.rewards.texts import Encoder, TextBatch
from collegium.train import Epochs, Loss, fit

_STEPS_MORE = 4
"""The gate's passes in those of the judges: its inputs are computed once, a step costs next to nothing."""


@dataclass(frozen=True, eq=False)
class GateMixer:
    """The gate of judges that are the outputs of one adapter."""

    judges: AdapterJudges
    weight: Float[Tensor, "judge hidden"]
    bias: Float[Tensor, " judge"]

    @property
    def parameters(self) -> int:
        """The gate's numbers."""
        return self.weight.numel() + self.bias.numel()

    def __call__(self, prompts: TextBatch) -> Float[Tensor, "prompt judge"]:
        """Return log-weights of the judges."""
        return gate_log_weights(prompt_features(self.judges, prompts), self.weight, self.bias)


def gate_log_weights(
    states: Float[Tensor, "prompt hidden"], weight: Float[Tensor, "judge hidden"], bias: Float[Tensor, " judge"]
) -> Float[Tensor, "prompt judge"]:
    """Return log softmax of the gate."""
    return (states @ weight.T + bias).log_softmax(-1)


def prompt_features(judges: AdapterJudges, prompts: TextBatch) -> Float[Tensor, "prompt hidden"]:
    """Return the mean adapted state of each prompt, scaled to a mean square of one."""
    (key,) = judges.keys.values()
    hidden = judges.base.hidden(prompts.tokens, lengths=prompts.lengths, plan=RowPlan.one(key))
    states = mean_of(hidden, real_tokens(prompts.tokens, prompts.lengths))
    return torch.nn.functional.normalize(states, dim=-1) * states.shape[-1] ** 0.5


@dataclass(frozen=True, eq=False)
class _Seen:
    """What the gate is fitted on: features of each pair's prompt, and the standardised rewards of both answers."""

    prompts: Float[Tensor, "pair hidden"]
    chosen: Float[Tensor, "pair judge"]
    rejected: Float[Tensor, "pair judge"]

    def losses(self, rows: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        gate = gate_log_weights(self.prompts[rows], weight, bias).exp()
        return bradley_terry((gate * self.chosen[rows]).sum(-1), (gate * self.rejected[rows]).sum(-1))


def fit_gate(
    judges: AdapterJudges, standards: Standards, domains: Sequence[PairDomain], *, config: RewardConfig
) -> GateMixer:
    """Return the gate fitted on the pairs of all domains, judges frozen; it starts from equal weights."""
    lesson = Lesson.of(domains, Encoder(judges.base, config.text_tokens), config)
    train, dev = (_seen(judges, standards, each) for each in (lesson.train, lesson.dev))
    hidden = train.prompts.shape[1]
    weight = torch.zeros(len(judges.names), hidden, device=train.prompts.device, requires_grad=True)
    bias = torch.zeros(len(judges.names), device=train.prompts.device, requires_grad=True)
    epochs = Epochs(len(train.prompts), config.batch, derive_seed(config.seed, "gate"))
    every = torch.arange(len(dev.prompts))
    loop = config.loop(_STEPS_MORE * len(lesson.train), kind="adapter")

    def loss(step: int, part: int) -> Loss:
        rows = epochs.rows(step)
        return Loss(train.losses(rows, weight, bias).sum(), len(rows))

    fit(
        {"weight": weight, "bias": bias},
        loss,
        config=loop,
        evaluate=lambda: float(dev.losses(every, weight, bias).mean()),
    )
    return GateMixer(judges, weight.detach(), bias.detach())


@torch.no_grad()
def _seen(judges: AdapterJudges, standards: Standards, pairs: EncodedPairs) -> _Seen:
    prompts, rewards = [], []
    for rows in torch.arange(len(pairs)).split(8):
        batch = pairs.texts.take(torch.stack([2 * rows, 2 * rows + 1], dim=1).flatten())
        rewards.append(standards.apply(judges.every(batch)))
        prompts.append(prompt_features(judges, pairs.texts.take(2 * rows).of_prompts))
    said = torch.cat(rewards)
    return _Seen(torch.cat(prompts), said[0::2], said[1::2])
