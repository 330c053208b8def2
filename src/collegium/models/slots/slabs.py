"""Slabs: the low-rank parts of all resident experts at one place, in two tensors that grow by doubling."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.models.parts import BottleneckWeights, LoraWeights

LowRank = LoraWeights | BottleneckWeights
"""Parts that are two thin products; a bottleneck has a bias on either side and a rectifier between them."""


def thin_matrices(part: LowRank) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return A `[rank, input]`, B `[rank, output]` with its scale, and what is added to A x before the rectifier.

    The second bias of a bottleneck is one more column, whose first product is 0 + 1.
    """
    if isinstance(part, LoraWeights):
        return part.a, part.scale * part.b.T, None
    down = torch.cat([part.down, part.down.new_zeros(1, part.down.shape[1])])
    up = part.scale * torch.cat([part.up.T, part.up_bias[None]])
    return down, up, torch.cat([part.down_bias, part.down_bias.new_ones(1)])


class Slab:
    """The low-rank parts at one place by the position of their expert; position 0 is nobody: zeros.

    a: `[position, rank, input]`; b: `[position, rank, output]`, scales folded in; bias: `[position, rank]` or None.
    """

    def __init__(self, inputs: int, outputs: int, *, dtype: torch.dtype, device: torch.device) -> None:
        """Start with nobody."""
        self.a: Float[Tensor, "position rank input"] = torch.zeros(1, 0, inputs, dtype=dtype, device=device)
        self.b: Float[Tensor, "position rank output"] = torch.zeros(1, 0, outputs, dtype=dtype, device=device)
        self.bias: Float[Tensor, "position rank"] | None = None
        self.ranks: dict[int, int] = {}

    def put(self, position: int, part: LowRank) -> None:
        """Write an expert's part at its position, making room by doubling."""
        a, b, bias = thin_matrices(part)
        self._make_room(position + 1, a.shape[0])
        rank = self.ranks[position] = a.shape[0]
        for slab, value in ((self.a, a), (self.b, b)):
            slab[position, :rank] = value.detach().to(slab)
            slab[position, rank:] = 0
        if bias is not None and self.bias is None:
            self.bias = self.a.new_zeros(self.a.shape[:2])
        if self.bias is not None:
            self.bias[position] = 0
            if bias is not None:
                self.bias[position, :rank] = bias.detach().to(self.bias)

    def drop(self, position: int) -> None:
        """Forget the part at a position; the room is used again."""
        if self.ranks.pop(position, None) is None:
            return
        self.a[position], self.b[position] = 0, 0
        if self.bias is not None:
            self.bias[position] = 0

    def take(self, positions: Int[Tensor, "cast k"], rank: int) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return a `[cast, input, k * rank]`, b `[cast, k * rank, output]` and the bias `[cast, 1, k * rank]`.

        Positions in a row are views of the slab, not copies.
        """
        casts, k = positions.shape
        a, b = (self._rows(slab, positions, rank).reshape(casts, k * rank, -1) for slab in (self.a, self.b))
        bias = None
        if self.bias is not None:
            bias = self._rows(self.bias, positions, rank).reshape(casts, 1, k * rank)
        return a.transpose(1, 2), b, bias

    @staticmethod
    def _rows(slab: Tensor, positions: Tensor, rank: int) -> Tensor:
        flat = positions.flatten().tolist()
        if flat == list(range(flat[0], flat[0] + len(flat))):
            return slab[flat[0] : flat[0] + len(flat), :rank]
        return slab[:, :rank].index_select(0, torch.tensor(flat, device=slab.device))

    def _make_room(self, positions: int, rank: int) -> None:
        have = self.a.shape[:2]
        if positions <= have[0] and rank <= have[1]:
            return
        shape = (have[0] if positions <= have[0] else max(positions, 2 * have[0]), max(rank, have[1]))
        self.a, self.b = (_grown(slab, (*shape, slab.shape[2])) for slab in (self.a, self.b))
        if self.bias is not None:
            self.bias = _grown(self.bias, shape)


def _grown(slab: Tensor, shape: tuple[int, ...]) -> Tensor:
    new = slab.new_zeros(shape)
    new[: slab.shape[0], : slab.shape[1]] = slab
    return new
