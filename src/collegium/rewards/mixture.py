"""A sparse mixture of feed-forward experts inside one judge: its rewards, and who is used for what.

g = W_g h;  S = the top_k largest of g;  w = softmax(g_S);  out = sum_{e in S} w_e E_e(h)     [papers.md 1 (1)]
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.models import Base, Group, HeadWeights, RowPlan, SoftmaxGate, Trace
from collegium.rewards.judges import size_of
from collegium.rewards.reading import Reading, pooled
from collegium.rewards.texts import TextBatch


def mixture_plan(adapter: str, experts: Sequence[str], gates: Mapping[str, SoftmaxGate]) -> RowPlan:
    """Return the rows of a judge with experts inside: gates weigh these at their places, the adapter acts elsewhere."""
    return RowPlan((Group((*experts, adapter), gates=gates),))


class MixtureJudges:
    """One judge of all domains with experts inside.

    adapter, experts: the keys under which they are attached. gates: feed-forward block -> who is asked there.
    sizes: numbers of the adapter with its head, and of one expert.
    """

    def __init__(
        self,
        base: Base,
        adapter: str,
        experts: Sequence[str],
        *,
        gates: Mapping[str, SoftmaxGate],
        head: HeadWeights,
        reading: Reading,
        sizes: tuple[int, int],
    ) -> None:
        """Take the attached parts."""
        self.base, self.names, self.reading = base, ("all",), reading
        self.plan = mixture_plan(adapter, experts, gates)
        self.experts = len(experts)
        self._gates, self._head, self._sizes = dict(gates), head, sizes

    @property
    def resident(self) -> int:
        """The base's numbers, the adapter's, all experts' and the gates'; the blocks they replace stay in memory."""
        return size_of(self.base) + self._sizes[0] + self.experts * self._sizes[1] + self._gate_numbers

    @property
    def active(self) -> int:
        """The numbers that a token is read with: all of the base's, for the blocks replaced are run as well, the
        adapter's, the gates', and of the experts those that are asked."""
        asked = max(gate.top_k or self.experts for gate in self._gates.values())
        return size_of(self.base) + self._sizes[0] + min(asked, self.experts) * self._sizes[1] + self._gate_numbers

    @property
    def _gate_numbers(self) -> int:
        return sum(gate.weight.numel() for gate in self._gates.values())

    def every(self, batch: TextBatch) -> Float[Tensor, "text judge"]:
        """Return the rewards."""
        return self._head(pooled(self.base, batch, plan=self.plan, reading=self.reading)[0])

    def chosen(self, batch: TextBatch, index: Int[Tensor, " text"]) -> Float[Tensor, " text"]:
        """Return the rewards: there is one judge to choose."""
        del index
        return self.every(batch)[:, 0]

    @torch.no_grad()
    def usage(self, batch: TextBatch) -> Float[Tensor, "layer expert"]:
        """Return how many times each expert was chosen by a token that is read, layer by layer."""
        trace: Trace = {}
        pooled(self.base, batch, plan=self.plan, reading=self.reading, trace=trace)
        read = torch.arange(batch.tokens.shape[1]) < batch.lengths[:, None]
        counts = []
        for path in self._gates:
            weights, index = trace[path]
            chosen = torch.arange(self.experts).expand(*weights.shape) if index is None else index.cpu()
            counts.append(chosen[read].flatten().bincount(minlength=self.experts))
        return torch.stack(counts).float()
