"""Base models, the slots where experts change them, and the executor that runs many rows at once."""

from collegium.models.base import Base, after_context, segment_positions
from collegium.models.decoding import BaseDecoding, RowDecoding
from collegium.models.rows import BASE_ROWS, Adapter, Group, LoraWeights, RowPlan

__all__ = [
    "BASE_ROWS",
    "Adapter",
    "Base",
    "BaseDecoding",
    "Group",
    "LoraWeights",
    "RowDecoding",
    "RowPlan",
    "after_context",
    "segment_positions",
]
