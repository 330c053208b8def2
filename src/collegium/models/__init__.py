"""Base models, the slots where experts change them, and the executor that runs many rows at once."""

from collegium.models.base import Base, after_context, segment_positions
from collegium.models.convert import pinned_folder
from collegium.models.decoding import BaseDecoding, RowDecoding
from collegium.models.device import Machine, choose_device, choose_dtype, inspect_machine, memory_errors, memory_of
from collegium.models.rows import BASE_ROWS, Adapter, Group, LoraWeights, RowPlan
from collegium.models.sources import BASES, load_base, load_tokenizer

__all__ = [
    "BASES",
    "BASE_ROWS",
    "Adapter",
    "Base",
    "BaseDecoding",
    "Group",
    "LoraWeights",
    "Machine",
    "RowDecoding",
    "RowPlan",
    "after_context",
    "choose_device",
    "choose_dtype",
    "inspect_machine",
    "load_base",
    "load_tokenizer",
    "memory_errors",
    "memory_of",
    "pinned_folder",
    "segment_positions",
]
