"""Which row of a weight matrix stands where in llama.cpp: the one place where its files differ from transformers'.

llama.cpp keeps a matrix as [outputs, inputs], as nn.Linear does; GPT-2's Conv1D, which is the other way round, is
turned when a model is converted. A low-rank change B A is [outputs, inputs] in Collegium whatever the base keeps, so A
always goes over as it is, and B as it is wherever the rows keep their order. They do not in two cases.

Rotary embedding, llama's way. transformers turns the pair (i, i + d/2) of a head of d rows by one angle, llama.cpp's
plain rotation the pair (2i, 2i + 1). A converted model of these types therefore has its rows of q and k in another
order, head by head: row 2i + j is transformers' row i + j d/2, for j = 0, 1. For W' = P W the change is P (B A) =
(P B) A: B's rows move alike. Types that llama.cpp turns in halves (qwen, gemma, phi, gptneox) keep their order.

Fused query_key_value, GPT-NeoX's way. transformers keeps the rows as (head, three, d), llama.cpp as (three, head, d).
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from collegium.core.errors import IncompatibleExpert

Rows = Callable[[int, int], Int[Tensor, " row"]]
"""(rows, heads) -> for each of llama.cpp's rows, the row of transformers that stands there."""


def rotary_rows(rows: int, heads: int) -> Int[Tensor, " row"]:
    """Return the order of q's or k's rows where llama.cpp turns neighbouring rows.

    >>> rotary_rows(8, 2).tolist()
    [0, 2, 1, 3, 4, 6, 5, 7]
    """
    return torch.arange(rows).view(heads, 2, rows // heads // 2).transpose(1, 2).reshape(-1)


def fused_rows(rows: int, heads: int) -> Int[Tensor, " row"]:
    """Return the order of a fused query_key_value's rows: all queries, all keys, all values.

    >>> fused_rows(12, 2).tolist()
    [0, 1, 6, 7, 2, 3, 8, 9, 4, 5, 10, 11]
    """
    return torch.arange(rows).view(heads, 3, rows // heads // 3).transpose(0, 1).reshape(-1)


@dataclass(frozen=True)
class Family:
    """How llama.cpp calls a model type, and whose rows it re-orders.

    moved: layer as its path ends -> (order, field of the configuration that says how many heads it has).
    """

    architecture: str
    moved: dict[str, tuple[Rows, str]]


_TURNED: dict[str, tuple[Rows, str]] = {
    "q_proj": (rotary_rows, "num_attention_heads"),
    "k_proj": (rotary_rows, "num_key_value_heads"),
}

FAMILIES: dict[str, Family] = {
    "llama": Family("llama", _TURNED),
    "mistral": Family("llama", _TURNED),
    "granite": Family("granite", _TURNED),
    "smollm3": Family("smollm3", _TURNED),
    "qwen2": Family("qwen2", {}),
    "qwen3": Family("qwen3", {}),
    "gemma": Family("gemma", {}),
    "gemma2": Family("gemma2", {}),
    "gemma3_text": Family("gemma3", {}),
    "phi3": Family("phi3", {}),
    "olmo2": Family("olmo2", {}),
    "starcoder2": Family("starcoder2", {}),
    "gpt2": Family("gpt2", {}),
    "gpt_neox": Family("gptneox", {"query_key_value": (fused_rows, "num_attention_heads")}),
}
"""Model types of transformers -> llama.cpp's architectures."""


def family_of(config: Any) -> Family:  # noqa: ANN401 - a transformers configuration
    """Return how llama.cpp keeps a model type; raises IncompatibleExpert for one that is not in the table."""
    found = FAMILIES.get(config.model_type)
    if found is None:
        raise IncompatibleExpert(
            f"how llama.cpp orders the rows of a base of type {config.model_type!r} is not known here; known are "
            f"{', '.join(sorted(FAMILIES))}. Export a merged checkpoint (--to merged) and convert that with llama.cpp."
        )
    return found


def row_order(path: str, rows: int, config: Any) -> Int[Tensor, " row"]:  # noqa: ANN401 - a transformers configuration
    """Return for each row that llama.cpp has in a layer the row of transformers that stands there."""
    order, field = family_of(config).moved.get(path.rpartition(".")[2], (None, ""))
    return torch.arange(rows) if order is None else order(rows, getattr(config, field))
