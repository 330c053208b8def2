"""Posterior pruning: who leaves an ensemble at a block's start, when everybody is asked again, and what it costs."""

import math
from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

BLOCK_TOKENS = 16
"""Experts leave and come back where a text's length is a multiple of this."""
SURPRISE_DEVIATIONS = 3.0
"""How many standard deviations above their mean the survivors' nats surprise, were both known exactly."""
SURPRISED_BLOCKS = 2
"""How many blocks in a row must surprise for everybody to be called back."""
LEAST_BLOCKS = 3
"""How many blocks a standard deviation is taken from at least."""


def leaving(
    weights: Float[Tensor, "*batch expert"], present: Bool[Tensor, "*batch expert"], *, epsilon: float
) -> Bool[Tensor, "*batch expert"]:
    """Return which of those present have a posterior under epsilon; the likeliest never leaves.

    >>> leaving(torch.tensor([0.9995, 0.0005, 0.0]), torch.tensor([True, True, False]), epsilon=1e-3)
    tensor([False,  True, False])
    """
    held = weights.masked_fill(~present, -1.0)
    best = torch.zeros_like(present).scatter(-1, held.argmax(dim=-1, keepdim=True), True)
    return present & (weights < epsilon) & ~best


def prediction_deviations(blocks: int, *, exact: float) -> float:
    """Return how many estimated standard deviations are as rarely passed as `exact` ones that are known.

    A further value lies above mean + t sqrt(1 + 1/n) deviations of n earlier ones as often as a normal one above its
    own mean + z; t is Student's quantile of n - 1 degrees of freedom, by Fisher's expansion to its third term.

    >>> [round(prediction_deviations(blocks, exact=3.0), 1) for blocks in (4, 8, 64)]
    [9.5, 4.8, 3.1]
    """
    z, free = exact, blocks - 1
    first = (z**3 + z) / 4
    second = (5 * z**5 + 16 * z**3 + 3 * z) / 96
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384
    return math.sqrt(1 + 1 / blocks) * (z + first / free + second / free**2 + third / free**3)


@dataclass(frozen=True)
class BlockNats:
    """The survivors' nats of blocks so far: how many blocks, their mean, and the sum of squared distances from it.

    in_a_row: how many of the last blocks have surprised.
    """

    blocks: int = 0
    mean: float = 0.0
    squares: float = 0.0
    in_a_row: int = 0

    @property
    def deviation(self) -> float:
        """The standard deviation (n - 1); infinite while there are too few blocks to tell."""
        return math.sqrt(self.squares / (self.blocks - 1)) if self.blocks >= LEAST_BLOCKS else math.inf

    @property
    def calls(self) -> bool:
        """Whether so many blocks in a row have surprised that everybody is called back.

        One hard block is common in real text, and what follows it is as usual; where a text changes hands all that
        follows surprises.
        """
        return self.in_a_row >= SURPRISED_BLOCKS

    def surprised(self, nats: float) -> bool:
        """Return whether a block's nats lie above what those before it let expect, by 3 standard deviations.

        >>> seen = BlockNats().read(10.0).read(11.0).read(12.0).read(11.0)
        >>> seen.surprised(18.0), seen.surprised(19.0)
        (False, True)
        """
        if self.blocks < LEAST_BLOCKS:
            return False
        return nats > self.mean + prediction_deviations(self.blocks, exact=SURPRISE_DEVIATIONS) * self.deviation

    def read(self, nats: float) -> "BlockNats":
        """Return the statistics with one more block; one that surprises is no part of what is usual.

        So the missing are called back at each block for as long as it goes on, until the posterior has turned.
        """
        if self.surprised(nats):
            return replace(self, in_a_row=self.in_a_row + 1)
        blocks = self.blocks + 1
        mean = self.mean + (nats - self.mean) / blocks
        return BlockNats(blocks, mean, self.squares + (nats - self.mean) * (nats - mean))


def pruning_cost(
    log_posterior: Float[Tensor, "*batch expert"],
    log_likelihood: Float[Tensor, "*batch expert"],
    missing: Bool[Tensor, "*batch expert"],
) -> Float[Tensor, "*batch"]:
    """Return what a block costs in nats because experts are missing: log(1 - m + m LR).

    m = the exact posterior mass missing at the block's start, LR = p(block | the missing) / p(block | the survivors),
    each side weighed by its own posterior. Summed over blocks it is nats(pruned) - nats(full ensemble), exactly; never
    below log(1 - m), and above 0 where the missing would have said it better.

    log_posterior:  the full ensemble's at the block's start. log_likelihood: of the whole block.

    >>> pruning_cost(torch.tensor([0.5, 0.5]).log(), torch.tensor([0.2, 0.4]).log(), torch.tensor([False, True])).exp()
    tensor(1.5000)
    """
    nobody = float("-inf")
    log_mass_left = log_posterior.masked_fill(missing, nobody).logsumexp(dim=-1)
    joint = log_posterior + log_likelihood
    survivors = joint.masked_fill(missing, nobody).logsumexp(dim=-1) - log_mass_left
    gone = joint.masked_fill(~missing, nobody).logsumexp(dim=-1)
    return torch.logaddexp(log_mass_left, gone - survivors)
