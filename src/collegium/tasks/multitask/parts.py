"""What a mixture of task adapters is made of, before and while it is trained."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.randomness import generator
from collegium.experts.fit import ALIKE
from collegium.experts.fresh import fresh_adapter
from collegium.models import Adapter, Base, TaskGate
from collegium.rewards.fit import adapter_weights
from collegium.tasks.multitask.config import MultitaskConfig

SPREAD = 0.5
"""Of the queries' first weights where adapters and gates begin together: they are weighed almost alike, not quite."""


def task_adapter(base: Base, config: MultitaskConfig, *, rank: int | None = None, label: str = ALIKE) -> Adapter:
    """Return a fresh adapter; label: under which it is drawn, one name for all that are trained alone."""
    settings = config.adapter(len(base.blocks), rank=rank)
    return fresh_adapter(base, settings, label, tokens=torch.zeros(1, 1, dtype=torch.long))


def adapter_size(adapter: Adapter) -> int:
    """Return how many numbers an adapter holds."""
    return sum(each.numel() for each in adapter_weights(adapter).values())


def equal_rank(base: Base, config: MultitaskConfig, parameters: int) -> int:
    """Return the rank of the one adapter that holds as many numbers, as nearly as ranks go."""
    first, second = (adapter_size(task_adapter(base, config, rank=rank)) for rank in (1, 2))
    return max(1, round((parameters - first) / (second - first)) + 1)


@dataclass(frozen=True, eq=False)
class Gates:
    """The gates of a mixture and what they are told of each task."""

    gates: Mapping[str, TaskGate]
    vectors: Float[Tensor, "task size"]

    @property
    def weights(self) -> dict[str, Tensor]:
        """All that is trained, by name."""
        found = {"vectors": self.vectors} if self.vectors.requires_grad else {}
        for path, gate in self.gates.items():
            found |= {f"gate.{path}.query": gate.query, f"gate.{path}.keys": gate.keys}
        return found

    @property
    def parameters(self) -> int:
        """How many numbers are trained."""
        return sum(each.numel() for each in self.weights.values())


def fresh_gates(
    base: Base,
    adapter: Adapter,
    names: Sequence[str],
    config: MultitaskConfig,
    *,
    spread: float = 0.0,
    top_k: int | None = None,
    agnostic: bool = False,
) -> Gates:
    """Return new gates over the adapters of these tasks, at the places of one of them.

    spread: of the first queries; 0 = all are even. agnostic: whether they are told nothing of the task.
    """
    count, size = len(names), config.task_size

    def drawn(*shape: int, label: str, scale: float) -> Tensor:
        found = torch.randn(*shape, generator=generator(config.seed, "task gate", label)) * scale
        return found.to(base.device).requires_grad_()

    gates = {
        path: TaskGate(
            drawn(config.gate_size, base.sites[path].shape[0] + size, label=f"{path} query", scale=spread),
            drawn(count, config.gate_size, label=f"{path} keys", scale=1.0),
            top_k,
        )
        for path in adapter
    }
    rows = [drawn(size, label=f"vector {name}", scale=1.0) for name in names]
    vectors = torch.stack(rows).detach()
    return Gates(gates, torch.zeros_like(vectors) if agnostic else vectors.requires_grad_())
