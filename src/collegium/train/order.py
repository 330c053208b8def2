"""The order in which rows are read: a function of seed and number, so that a fit resumes without a position."""

from dataclasses import dataclass, field

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import DataError
from collegium.core.randomness import generator


@dataclass
class Epochs:
    """Endless batches over `count` rows, each epoch a new permutation drawn for its number alone.

    The stream of permutations is cut into batches of `batch` rows; a batch may span two epochs.

    >>> Epochs(3, batch=2, seed=0).rows(5).shape
    torch.Size([2])
    """

    count: int
    batch: int
    seed: int
    _order: dict[int, Int[Tensor, " row"]] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Raise DataError when there is nothing to read."""
        if self.count < 1 or self.batch < 1:
            raise DataError(f"batches need at least one row and one place, got {self.count} rows of {self.batch}.")

    def rows(self, number: int) -> Int[Tensor, " batch"]:
        """Return the row indices of batch `number` (from 0)."""
        first = number * self.batch
        places = range(first, first + self.batch)
        return torch.stack([self._epoch(place // self.count)[place % self.count] for place in places])

    def _epoch(self, epoch: int) -> Int[Tensor, " row"]:
        if epoch not in self._order:
            if len(self._order) > 1:
                self._order.clear()
            self._order[epoch] = torch.randperm(self.count, generator=generator(self.seed, "epoch", str(epoch)))
        return self._order[epoch]
