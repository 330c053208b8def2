"""Gates that are learnt with the experts they weigh: the router of a sparse mixture, and one that is told the task."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import RoutingError
from collegium.ops.choosing import top_softmax

_SPREAD = 0.1
"""Of the first logits, for inputs of variance one: experts are chosen at random, and weighed almost alike."""


@dataclass(frozen=True, eq=False)
class SoftmaxGate:
    """g = W h;  S = the k largest of g;  w = softmax(g_S)  [papers.md 1 (1)].

    weight: W, trained where it asks for gradients. top_k: how many experts keep weight, None = all.

    Raises RoutingError unless at least one keeps weight.
    """

    weight: Float[Tensor, "expert hidden"]
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check that somebody keeps weight."""
        if self.top_k is not None and self.top_k < 1:
            raise RoutingError(f"a gate keeps at least one expert (top_k), got {self.top_k}.")

    def __call__(
        self, hidden: Float[Tensor, "*tokens hidden"]
    ) -> tuple[Float[Tensor, "*tokens k"], Int[Tensor, "*tokens k"] | None]:
        """Return the weights of the k largest, which sum to 1, and whose they are."""
        return top_softmax(self._logits(hidden), self.top_k)

    def probabilities(self, hidden: Float[Tensor, "*tokens hidden"]) -> Float[Tensor, "*tokens expert"]:
        """Return the softmax over all experts: what losses of balance are taken of."""
        return self._logits(hidden).softmax(dim=-1)

    def _logits(self, hidden: Tensor) -> Tensor:
        return hidden.to(self.weight.dtype) @ self.weight.T


def softmax_gate(
    experts: int,
    inputs: int,
    *,
    top_k: int | None = None,
    generator: torch.Generator | None = None,
    device: torch.device | None = None,
) -> SoftmaxGate:
    """Return a fresh gate over so many experts, whose weight asks for gradients.

    inputs: the size of what it reads, `base.sites[path].shape[0]`. generator: of the processor; None = torch's own.
    device: where the weight comes to lie, `base.device`; None = the processor.

    >>> gate = softmax_gate(4, 64, top_k=2, generator=torch.Generator().manual_seed(0))
    >>> weights, index = gate(torch.ones(1, 3, 64))
    >>> weights.shape, index.shape, weights.requires_grad
    (torch.Size([1, 3, 2]), torch.Size([1, 3, 2]), True)
    """
    drawn = torch.randn(experts, inputs, generator=generator) * _SPREAD * inputs**-0.5
    return SoftmaxGate(drawn.to(device).requires_grad_(), top_k)


@dataclass(frozen=True, eq=False)
class TaskGate:
    """alpha = softmax(q K^T / sqrt(d)),  q = W_q [h / |h|; e]  [xie2023alter; our reading, papers.md 5].

    h is the input of the place, scaled to length 1 so that no base's own scale decides how sharp a gate is; e is what
    the text's row is told (`Group.told`): the vector of its task.

    query: W_q. keys: K, a row for each expert. top_k: how many experts keep weight, None = all.

    Raises RoutingError unless at least one keeps weight.

    >>> gate = TaskGate(torch.zeros(2, 5), torch.ones(4, 2))
    >>> gate(torch.ones(1, 3, 4), torch.ones(1, 1))[0][0, 0].tolist()
    [0.25, 0.25, 0.25, 0.25]
    """

    query: Float[Tensor, "size hidden_and_told"]
    keys: Float[Tensor, "expert size"]
    top_k: int | None = None

    def __post_init__(self) -> None:
        """Check that somebody keeps weight."""
        if self.top_k is not None and self.top_k < 1:
            raise RoutingError(f"a gate keeps at least one expert (top_k), got {self.top_k}.")

    def __call__(
        self, hidden: Float[Tensor, "row seq hidden"], told: Float[Tensor, "row told"] | None = None
    ) -> tuple[Float[Tensor, "row seq k"], Int[Tensor, "row seq k"] | None]:
        """Return the weights, which sum to 1, and whose they are; raises RoutingError where it is told nothing."""
        if told is None:
            raise RoutingError("a gate of tasks is told a task's vector for each row; give the group `told`.")
        scaled = torch.nn.functional.normalize(hidden.to(self.query.dtype), dim=-1)
        of_hidden, of_told = self.query.split([hidden.shape[-1], told.shape[-1]], dim=1)
        query = scaled @ of_hidden.T + (told.to(self.query) @ of_told.T)[:, None]
        return top_softmax(query @ self.keys.T / self.keys.shape[1] ** 0.5, self.top_k)
