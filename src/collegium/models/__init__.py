"""Base models, the slots where experts change them, and the executor that runs many rows at once."""

from collegium.models.base import Base
from collegium.models.convert import pinned_folder
from collegium.models.decoding import BaseDecoding, RowDecoding
from collegium.models.device import Machine, choose_device, choose_dtype, inspect_machine, memory_errors, memory_of
from collegium.models.gates import SoftmaxGate, TaskGate, softmax_gate
from collegium.models.parts import (
    KINDS,
    Adapter,
    BottleneckWeights,
    FfnWeights,
    HeadWeights,
    Ia3Weights,
    LoraWeights,
    Part,
    PrefixWeights,
    lora_parts,
)
from collegium.models.positions import after_context, segment_positions
from collegium.models.rows import BASE_ROWS, NOBODY, Group, RowPlan, Rows
from collegium.models.seats import RowReader, Seat, positions_of, seat_rows
from collegium.models.sites import Site
from collegium.models.slots import OpenTrace, Trace
from collegium.models.sources import BASES, load_base, load_config, load_tokenizer

__all__ = [
    "BASES",
    "BASE_ROWS",
    "KINDS",
    "NOBODY",
    "Adapter",
    "Base",
    "BaseDecoding",
    "BottleneckWeights",
    "FfnWeights",
    "Group",
    "HeadWeights",
    "Ia3Weights",
    "LoraWeights",
    "Machine",
    "OpenTrace",
    "Part",
    "PrefixWeights",
    "RowDecoding",
    "RowPlan",
    "RowReader",
    "Rows",
    "Seat",
    "Site",
    "SoftmaxGate",
    "TaskGate",
    "Trace",
    "after_context",
    "choose_device",
    "choose_dtype",
    "inspect_machine",
    "load_base",
    "load_config",
    "load_tokenizer",
    "lora_parts",
    "memory_errors",
    "memory_of",
    "pinned_folder",
    "positions_of",
    "seat_rows",
    "segment_positions",
    "softmax_gate",
]
