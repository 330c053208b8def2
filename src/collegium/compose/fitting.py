"""Fitting what weighs experts, through the frozen model: the language-model loss on a small memory of documents.

memory -> windows -> plan(windows) holds the gates' parameters -> token nats -> one fit loop
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.core.protocols import Tokenizer
from collegium.core.randomness import derive_seed
from collegium.data import Document, Windows, cut, join_windows, pack
from collegium.models import Base, RowPlan
from collegium.train import Checkpoints, Epochs, Fit, Logger, LoopConfig, Loss, check_rules, fit

Plan = Callable[[Windows], RowPlan]
"""Given a batch of the memory, returns the rows by which the frozen model reads it: one group, whose weights or gates
hold the parameters to be fitted."""


@dataclass(frozen=True)
class GateFit:
    """Settings of a fit through the frozen model. Equal settings, base, experts and documents give equal weights."""

    steps: int = 60
    """Updates of the gates' weights."""
    batch: int = 4
    """Windows read at once."""
    window: int = 128
    """Tokens in a window."""
    learning_rate: float = 5e-3
    """Its peak."""
    warmup: float = 0.1
    """Share of the steps in which the learning rate grows to its peak; afterwards a cosine to a tenth."""
    memory_tokens: int = 8192
    """At most this many training tokens of each domain are remembered."""
    dev_tokens: int = 2048
    """At most this many held-out tokens of each domain are measured each time."""
    evaluate_every: int = 20
    """Steps between two measurements of the held-out loss."""
    patience: int = 3
    """Measurements without improvement after which the fit stops; 0 = never."""

    def __post_init__(self) -> None:
        """Raise ConfigError with every setting out of its bounds."""
        rules = [
            ("batch", self.batch, self.batch >= 1, "is at least 1"),
            ("window", self.window, self.window >= 2, "is at least 2"),
            ("warmup", self.warmup, 0 <= self.warmup <= 1, "lies in [0, 1]"),
            ("memory_tokens", self.memory_tokens, self.memory_tokens >= 2, "is at least 2"),
            ("dev_tokens", self.dev_tokens, self.dev_tokens >= 2, "is at least 2"),
        ]
        check_rules(rules, what="settings of a fit of gates")
        self.loop()

    def loop(self) -> LoopConfig:
        """Return the fit loop's settings."""
        return LoopConfig(
            self.steps,
            self.learning_rate,
            warmup_steps=round(self.warmup * self.steps),
            evaluate_every=self.evaluate_every,
            patience=self.patience,
        )


@dataclass(frozen=True)
class Remembered:
    """The documents of one domain that a fit may read, and others by which it is measured."""

    train: Sequence[Document]
    dev: Sequence[Document]

    @property
    def hashes(self) -> tuple[str, ...]:
        """All of their hashes."""
        return tuple(document.hash for document in (*self.train, *self.dev))


@dataclass(frozen=True, eq=False)
class Memory:
    """Windows to fit on and windows to measure by."""

    train: Windows
    dev: Windows


def memory_of(
    documents: Mapping[str, Remembered], tokenizer: Tokenizer | None, *, config: GateFit, seed: int = 0
) -> Memory:
    """Return the memory of some domains, each with as many tokens where it has them.

    Raises DataError when there is no domain, or one without a token that counts.
    """
    if not documents:
        raise DataError("a fit through the model needs the documents of at least one domain.")
    train, dev = [], []
    for name, each in documents.items():
        own = derive_seed(seed, "memory", name)
        try:
            train.append(
                pack(each.train, tokenizer, window=config.window, seed=own, budget_tokens=config.memory_tokens)
            )
            dev.append(cut(each.dev, tokenizer, window=config.window, budget_tokens=config.dev_tokens))
        except DataError as error:
            raise DataError(f"{name!r} cannot be remembered: {error}") from error
    return Memory(join_windows(train), join_windows(dev))


@dataclass(frozen=True, eq=False)
class ThroughModel:
    """The loss of a plan's parameters on a memory; what is read in a step is a function of the step's number."""

    base: Base
    plan: Plan
    memory: Memory
    epochs: Epochs

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed nats of one batch, and how many tokens they are of."""
        return self._nats(self.memory.train, self.epochs.rows(step))

    def held_out(self) -> float:
        """Return the mean nats of a held-out token that counts."""
        total, count = 0.0, 0
        for rows in torch.arange(len(self.memory.dev)).split(self.epochs.batch):
            each = self._nats(self.memory.dev, rows)
            total, count = total + each.total.item(), count + each.count
        return total / count

    def _nats(self, windows: Windows, rows: Int[Tensor, " row"]) -> Loss:
        batch = narrowed(windows.take(rows))
        nats = self.base.token_nats(
            batch.tokens,
            lengths=batch.lengths,
            segments=batch.segments,
            scored=batch.scored,
            plan=self.plan(batch),
        )
        return Loss(nats.sum(), int(batch.scored.sum()))


def narrowed(windows: Windows) -> Windows:
    """Return the windows no wider than the longest of them."""
    width = int(windows.lengths.max())
    names = ("tokens", "scored", "segments", "token_bytes")
    return dataclasses.replace(windows, **{name: getattr(windows, name)[:, :width] for name in names})


def fit_through(
    base: Base,
    plan: Plan,
    parameters: Mapping[str, Tensor],
    memory: Memory,
    *,
    config: GateFit,
    label: str,
    seed: int = 0,
    checkpoints: Checkpoints | None = None,
    logger: Logger | None = None,
) -> Fit:
    """Return the history of a fit of these parameters alone; they end at their best held-out loss.

    Base and experts are as they were, to the last bit. label: of the order in which the memory is read.

    Raises TrainingError when the fit diverges.
    """
    epochs = Epochs(len(memory.train), config.batch, derive_seed(seed, "memory order", label))
    objective = ThroughModel(base, plan, memory, epochs)
    return fit(
        parameters,
        objective.loss,
        config=config.loop(),
        evaluate=objective.held_out,
        checkpoints=checkpoints,
        logger=logger,
    )
