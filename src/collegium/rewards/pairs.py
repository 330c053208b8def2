"""Preference pairs as token ids, and the loss of a reward model on them."""

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.data.preferences import Pair
from collegium.experts.objective import computing_in
from collegium.models import Base, HeadWeights, OpenTrace, RowPlan
from collegium.ops.preferences import bradley_terry
from collegium.rewards.reading import Reading, pooled
from collegium.rewards.states import KeptStates
from collegium.rewards.texts import Encoder, TextBatch, batch_of, encode_all
from collegium.train import Epochs, Loss


@dataclass(frozen=True, eq=False)
class EncodedPairs:
    """Pairs side by side: text 2i is the answer chosen in pair i, text 2i + 1 the one rejected.

    margins: as the pairs say, 0 where they do not. domains: the number of each pair's domain.
    cut:     texts that did not fit whole. equal: pairs left out because their answers do not differ in what fits.
    """

    texts: TextBatch
    margins: Float[Tensor, " pair"]
    domains: Int[Tensor, " pair"]
    cut: int = 0
    equal: int = 0

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.margins)


def encode_pairs(pairs: Mapping[str, Sequence[Pair]], encoder: Encoder) -> EncodedPairs:
    """Return the pairs of all domains, in their order, as token ids; raises DataError when none is left."""
    kept, margins, domains = [], [], []
    cut = equal = 0
    for number, own in enumerate(pairs.values()):
        for pair in own:
            both = encode_all(pair.samples, encoder, where=lambda _, pair=pair: pair.origin or "a pair")
            cut += sum(each.cut for each in both)
            if both[0].tokens == both[1].tokens:
                equal += 1
                continue
            kept += both
            margins.append(pair.margin or 0.0)
            domains.append(number)
    if not kept:
        raise DataError(
            f"no pair is left of {', '.join(pairs)}: the answers of all {equal} do not differ in their first "
            f"{encoder.text_tokens} tokens. Raise --text-tokens, or give other pairs."
        )
    return EncodedPairs(batch_of(kept), torch.tensor(margins), torch.tensor(domains), cut, equal)


Penalty = Callable[[OpenTrace, Int[Tensor, " pair"]], Float[Tensor, ""]]
"""What gates said of the texts of a batch, and the domains of its pairs -> a loss."""


@dataclass(frozen=True, eq=False)
class PairObjective:
    """The Bradley-Terry loss of one reward model; what is read in a step is a function of the step's number.

    base, plan: what reads the texts; head: what reads their states, with one output, or one for each domain.
    dtype:      what products are computed in. states: of the texts below the first block that is trained.
    penalty:    is told what the gates said of a batch and its pairs' domains, and gives a loss that each pair bears (a
                balance of experts); None = there are no gates.
    """

    base: Base
    plan: RowPlan
    head: HeadWeights
    reading: Reading
    train: EncodedPairs
    dev: EncodedPairs
    epochs: Epochs
    dtype: torch.dtype
    smoothing: float = 0.0
    margin_scale: float = 0.0
    states: tuple[KeptStates | None, KeptStates | None] = (None, None)
    penalty: Penalty | None = None

    def loss(self, step: int, part: int) -> Loss:
        """Return the summed loss of one batch of pairs, and how many they are."""
        rows = self.epochs.rows(step)
        trace = None if self.penalty is None else OpenTrace()
        chosen, rejected = self.rewards(self.train, rows, self.states[0], trace=trace).unbind(1)
        margin = self.margin_scale * self.train.margins[rows].to(chosen.device)
        losses = bradley_terry(chosen, rejected, margin=margin, smoothing=self.smoothing)
        if trace is not None and self.penalty is not None:
            losses = losses + self.penalty(trace, self.train.domains[rows])
        return Loss(losses.sum(), len(rows))

    def tokens_read(self, steps: int) -> int:
        """Return how many tokens so many steps read."""
        lengths = self.train.texts.lengths.view(-1, 2).sum(1)
        return sum(int(lengths[self.epochs.rows(step)].sum()) for step in range(steps))

    def held_out(self) -> float:
        """Return the mean loss of a dev pair, without margin and smoothing."""
        total = 0.0
        for first in range(0, len(self.dev), self.epochs.batch):
            rows = torch.arange(first, min(first + self.epochs.batch, len(self.dev)))
            chosen, rejected = self.rewards(self.dev, rows, self.states[1]).unbind(1)
            total += float(bradley_terry(chosen, rejected).sum())
        return total / len(self.dev)

    def rewards(
        self,
        pairs: EncodedPairs,
        rows: Int[Tensor, " row"],
        states: KeptStates | None,
        *,
        trace: OpenTrace | None = None,
    ) -> Float[Tensor, "row 2"]:
        """Return the rewards of both answers of some pairs, by each pair's own output."""
        texts = torch.stack([2 * rows, 2 * rows + 1], dim=1).flatten()
        batch = pairs.texts.take(texts)
        trunk = contextlib.nullcontext() if states is None else states.given(texts, batch.tokens.shape[1])
        with computing_in(self.dtype, self.base), trunk:
            read = pooled(self.base, batch, plan=self.plan, reading=self.reading, trace=trace)[0]
        found = self.head(read)  # in float32, whatever the products are computed in
        own = pairs.domains[rows].repeat_interleave(2).to(found.device) if found.shape[1] > 1 else 0
        return found[torch.arange(len(found), device=found.device), own].view(-1, 2)
