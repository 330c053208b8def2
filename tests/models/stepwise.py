"""Prompts, plans and what one full forward says of them, for the laws of stepwise decoding."""

import torch

from collegium.models import RowPlan

LENGTHS = (7, 12, 1)
TOLERANCE = 1e-4


def prompts_of(tokens):
    return [tokens[row, :length].tolist() for row, length in enumerate(LENGTHS)]


def next_tokens(tokens, step, rows=range(3)):
    return torch.tensor([int(tokens[row, LENGTHS[row] + step]) for row in rows])


def full_at(full, step, rows=range(3)):
    """What the full forward says after `step` more tokens of each text, group-major."""
    return torch.stack([full[:, row, LENGTHS[row] - 1 + step] for row in rows], dim=1).flatten(0, 1)


PLANS = {
    "base": RowPlan.one("base"),
    "one": RowPlan.one("deep"),
    "ensemble": RowPlan.each(("top", "base", "deep")),
    "trunk": RowPlan.each(("top", "base")),
    "blend": RowPlan.blend(("deep", "top"), torch.tensor([[[0.2, 0.9]]])),
}
