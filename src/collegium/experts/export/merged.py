"""A merged checkpoint: one set of weights with the experts folded in, as transformers saves it."""

from pathlib import Path
from typing import Any

from collegium.models import Base
from collegium.models.quiet import quiet_transformers

KINDS = ("lora", "ia3", "whole")
"""Kinds that can be folded into a base's matrices, or averaged."""


def write_merged(model: Base, folder: Path) -> dict[str, Any]:
    """Write configuration, safetensors and tokenizer of a model, in the dtype of its weights."""
    with quiet_transformers():
        model.model.save_pretrained(folder)
        if model.tokenizer is not None:
            model.tokenizer.save_pretrained(folder)
    for path in folder.glob("*.safetensors"):  # written readable by their owner alone
        path.chmod((folder / "config.json").stat().st_mode)
    return {"dtype": str(model.dtype).removeprefix("torch.")}
