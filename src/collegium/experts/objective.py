"""The objective of language experts: nats of the tokens that count, in windows of text."""

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.core.randomness import derive_seed
from collegium.data import Document, Domain, Windows, cut, join_windows, pack
from collegium.experts.recipe import FitConfig
from collegium.experts.trunk_states import TrunkStates
from collegium.models import Base, RowPlan
from collegium.train import Epochs, Loss


@dataclass(frozen=True)
class Texts:
    """Documents to learn from, and others by which the learning is measured."""

    train: Sequence[Document]
    dev: Sequence[Document]

    @classmethod
    def of(cls, domain: Domain) -> "Texts":
        """Return a domain's own; raises DataError under three documents."""
        split = domain.split()
        return cls(split.train, split.dev)


@dataclass(frozen=True, eq=False)
class Objective:
    """Losses of one expert on its domain's windows; what is read in a step is a function of the step's number.

    model: the base (with the expert attached) or the whole model that is trained, and the plan by which it is run.
    dtype: what products are computed in; the parameters keep theirs.
    train_states, dev_states: what enters the plan's first changed block, kept; None = computed at each reading.
    """

    model: Base
    plan: RowPlan
    train: Windows
    dev: Windows
    epochs: Epochs
    accumulation: int
    dtype: torch.dtype
    train_states: TrunkStates | None = None
    dev_states: TrunkStates | None = None

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed nats of one batch, and how many tokens they are of."""
        return self._nats(self.train, self.epochs.rows(step * self.accumulation + part), self.train_states)

    def held_out(self) -> float:
        """Return the mean nats of a held-out token that counts."""
        total, count = 0.0, 0
        for number in range(-(-len(self.dev) // self.epochs.batch)):
            each = self._nats(self.dev, self.dev_rows(number), self.dev_states)
            total, count = total + each.total.item(), count + each.count
        return total / count

    def dev_rows(self, number: int) -> Int[Tensor, " row"]:
        """Return the held-out windows that are read together as batch `number`."""
        first = number * self.epochs.batch
        return torch.arange(first, min(first + self.epochs.batch, len(self.dev)))

    def _nats(self, windows: Windows, rows: Int[Tensor, " row"], states: TrunkStates | None) -> Loss:
        batch = windows.take(rows)
        width = int(batch.lengths.max())
        trunk = contextlib.nullcontext() if states is None else states.given(rows, width)
        with computing_in(self.dtype, self.model), trunk:
            nats = self.model.token_nats(
                batch.tokens[:, :width],
                lengths=batch.lengths,
                segments=batch.segments[:, :width],
                scored=batch.scored[:, :width],
                plan=self.plan,
            )
        return Loss(nats.sum(), int(batch.scored.sum()))


def computing_in(dtype: torch.dtype, model: Base) -> contextlib.AbstractContextManager[object]:
    """Return the context in which a model of other parameters computes its products in a dtype."""
    if dtype == model.dtype:
        return contextlib.nullcontext()
    return torch.autocast(model.device.type, dtype=dtype)


def text_objective(
    model: Base,
    plan: RowPlan,
    *,
    texts: Mapping[str, Texts],
    config: FitConfig,
    label: str,
    dtype: torch.dtype | None = None,
) -> Objective:
    """Return the objective over texts, each of which gives as many tokens of the steps and is measured by as many.

    texts: by the label under which is drawn what is read of them and how it is packed. label: of the order of all.
    dtype: what products are computed in; default = the model's.

    Raises DataError when no token of either part of a text would count.
    """
    tokenizer, window = model.tokenizer, config.window
    budget = config.steps * config.tokens_per_step // len(texts)
    train, dev = [], []
    for name, each in texts.items():
        try:
            seed = derive_seed(config.seed, "windows", name)
            train.append(pack(each.train, tokenizer, window=window, seed=seed, budget_tokens=budget))
            dev.append(cut(each.dev, tokenizer, window=window, budget_tokens=config.dev_tokens))
        except DataError as error:
            raise DataError(f"{name!r} cannot be learnt from: {error}") from error
    windows = join_windows(train)
    epochs = Epochs(len(windows), config.batch, derive_seed(config.seed, "windows", label))
    return Objective(model, plan, windows, join_windows(dev), epochs, config.accumulation, dtype or model.dtype)


def windows_hash(windows: Windows) -> str:
    """Return the sha256 of everything in the windows that a loss depends on."""
    digest = hashlib.sha256()
    for tensor in (windows.tokens, windows.lengths, windows.scored, windows.segments):
        digest.update(f"{tuple(tensor.shape)}".encode())
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()
