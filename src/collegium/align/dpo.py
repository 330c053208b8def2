"""DPO: a policy from preference pairs, without a reward model and without drawing  [Rafailov et al. 2023].

    L = -log sigmoid(beta ((ln pi - ln a)(chosen) - (ln pi - ln a)(rejected)))

Where preferences follow a reward by Bradley and Terry's rule, its optimum is p proportional to a exp(r / beta), the
target of KL-control. Left out: variants of the loss.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.align.draws import Draws
from collegium.align.policy import Policy
from collegium.core.protocols import LanguageModel
from collegium.data.preferences import Pair
from collegium.infer import end_tokens
from collegium.models import Base
from collegium.ops.preferences import bradley_terry
from collegium.rewards.texts import Encoder, batch_of, encode_all
from collegium.train import Checkpoints, Epochs, History, Logger, LoopConfig, Loss, fit


@dataclass(frozen=True, eq=False)
class PairDraws:
    """Pairs as texts with their prompts: the chosen answers, and in the same order the rejected ones."""

    chosen: Draws
    rejected: Draws

    def __len__(self) -> int:
        """How many pairs."""
        return len(self.chosen)

    def take(self, rows: Int[Tensor, " kept"]) -> "PairDraws":
        """Return these pairs alone, in this order."""
        return PairDraws(self.chosen.take(rows), self.rejected.take(rows))


def pair_draws(base: Base, pairs: Sequence[Pair], *, text_tokens: int) -> PairDraws:
    """Return pairs as tokens of a base, the end token behind each answer that was not cut."""
    encoder, ends = Encoder(base, text_tokens), sorted(end_tokens(base.tokenizer))[:1]
    sides = []
    for side in (0, 1):
        samples = [pair.samples[side] for pair in pairs]
        encoded = encode_all(samples, encoder, where=lambda number: pairs[number].origin or f"pair {number + 1}")
        ended = [each if each.cut else replace(each, completion=(*each.completion, *ends)) for each in encoded]
        batch, nothing = batch_of(ended), torch.zeros(len(pairs), dtype=torch.float64)
        prompt = torch.arange(len(pairs))
        sides.append(Draws(batch.tokens, batch.prompts, batch.lengths, nothing, prompt, tuple(samples)))
    return PairDraws(*sides)


def margins(policy: Policy, reference: LanguageModel, pairs: PairDraws, *, beta: float) -> Float[Tensor, " pair"]:
    """Return beta times how much more the policy has come to say each chosen answer than the rejected one."""
    gained = []
    for side in (pairs.chosen, pairs.rejected):
        with policy.reading(side):
            gained.append(policy.learn(side).double().sum(-1) - side.log_prob(reference))
    return beta * (gained[0] - gained[1])


def fit_preferences(
    policy: Policy,
    reference: LanguageModel,
    train: PairDraws,
    *,
    dev: PairDraws | None = None,
    config: LoopConfig,
    batch: int = 8,
    beta: float = 0.1,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    logger: Logger | None = None,
) -> History:
    """Move a policy by DPO, in place; with dev pairs the weights end at their lowest dev loss."""
    order = Epochs(len(train), min(batch, len(train)), seed)

    def loss(step: int, part: int) -> Loss:
        del part
        rows = order.rows(step)
        found = margins(policy, reference, train.take(rows), beta=beta)
        return Loss(bradley_terry(found, torch.zeros_like(found)).sum(), len(rows))

    evaluate = None if dev is None else lambda: dev_loss(policy, reference, dev, beta=beta, batch=batch)
    done = fit(policy.weights, loss, config=config, evaluate=evaluate, checkpoints=checkpoints, logger=logger)
    return done.history


@torch.no_grad()
def dev_loss(policy: Policy, reference: LanguageModel, dev: PairDraws, *, beta: float, batch: int) -> float:
    """Return the mean loss of pairs that are not learnt from."""
    total = 0.0
    for rows in torch.arange(len(dev)).split(batch):
        found = margins(policy, reference, dev.take(rows), beta=beta)
        total += float(bradley_terry(found, torch.zeros_like(found)).sum())
    return total / len(dev)
