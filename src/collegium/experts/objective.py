"""The objective of language experts: nats of the tokens that count, in windows of text."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.core.randomness import derive_seed
from collegium.data import Document, Windows, cut, pack
from collegium.experts.recipe import FitConfig
from collegium.models import Base, RowPlan
from collegium.train import Epochs, Loss


@dataclass(frozen=True, eq=False)
class Objective:
    """Losses of one expert on its domain's windows; what is read in a step is a function of the step's number.

    model: the base (with the expert attached) or the whole model that is trained, and the plan by which it is run.
    """

    model: Base
    plan: RowPlan
    train: Windows
    dev: Windows
    epochs: Epochs
    accumulation: int

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed nats of one batch, and how many tokens they are of."""
        return self._nats(self.train, self.epochs.rows(step * self.accumulation + part))

    def held_out(self) -> float:
        """Return the mean nats of a held-out token that counts."""
        total, count = 0.0, 0
        for rows in torch.arange(len(self.dev)).split(self.epochs.batch):
            each = self._nats(self.dev, rows)
            total, count = total + each.total.item(), count + each.count
        return total / count

    def _nats(self, windows: Windows, rows: Int[Tensor, " row"]) -> Loss:
        batch = windows.take(rows)
        width = int(batch.lengths.max())
        nats = self.model.token_nats(
            batch.tokens[:, :width],
            lengths=batch.lengths,
            segments=batch.segments[:, :width],
            scored=batch.scored[:, :width],
            plan=self.plan,
        )
        return Loss(nats.sum(), int(batch.scored.sum()))


def text_objective(
    model: Base,
    plan: RowPlan,
    *,
    train: Sequence[Document],
    dev: Sequence[Document],
    config: FitConfig,
    label: str,
) -> Objective:
    """Return the objective over documents; what is read of them, its packing and its order are drawn under the label.

    Raises DataError when no token of either part would count.
    """
    tokenizer, window = model.tokenizer, config.window
    budget = config.steps * config.tokens_per_step
    try:
        seed = derive_seed(config.seed, "windows", label)
        windows = pack(train, tokenizer, window=window, seed=seed, budget_tokens=budget)
        held_out = cut(dev, tokenizer, window=window, budget_tokens=config.dev_tokens)
    except DataError as error:
        raise DataError(f"{label!r} cannot be learnt from: {error}") from error
    return Objective(model, plan, windows, held_out, Epochs(len(windows), config.batch, seed), config.accumulation)


def windows_hash(windows: Windows) -> str:
    """Return the sha256 of everything in the windows that a loss depends on."""
    digest = hashlib.sha256()
    for tensor in (windows.tokens, windows.lengths, windows.scored, windows.segments):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
