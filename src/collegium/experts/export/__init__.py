"""Experts for other programs: PEFT, transformers, vLLM, LoRAX, llama.cpp. One format = one file and one row."""

from collegium.core.errors import ConfigError
from collegium.core.tables import nearest
from collegium.experts.export.formats import Format, Served, check_kinds
from collegium.experts.export.gguf import check_gguf, write_gguf
from collegium.experts.export.lorax import check_lorax, write_lorax
from collegium.experts.export.merged import KINDS as MERGED_KINDS
from collegium.experts.export.merged import write_merged
from collegium.experts.export.peft import KINDS as PEFT_KINDS
from collegium.experts.export.peft import check_peft, needs_base, write_peft
from collegium.experts.export.place import check_place, export_folder
from collegium.experts.export.vllm import check_vllm, write_vllm

FORMATS: dict[str, Format] = {
    "peft": Format("a PEFT folder, for `PeftModel.from_pretrained`", PEFT_KINDS, check_peft, write_peft, heads=True),
    "vllm": Format("PEFT folders and the line that serves them", ("lora",), check_vllm, write_vllm),
    "lorax": Format("PEFT folders and a request for each", ("lora",), check_lorax, write_lorax),
    "gguf": Format("NAME.gguf, for llama.cpp's `--lora`", ("lora",), check_gguf, write_gguf),
}
"""The forms in which an expert leaves as an expert."""

MERGED = "merged"
"""The form in which experts leave inside a base."""


def check_format(name: str) -> str:
    """Return the name of a format; raises ConfigError with the nearest for an unknown one."""
    if name != MERGED and name not in FORMATS:
        raise ConfigError(f"there is no format {name!r}. {nearest(name, (*FORMATS, MERGED))}")
    return name


__all__ = [
    "FORMATS",
    "MERGED",
    "MERGED_KINDS",
    "Format",
    "Served",
    "check_format",
    "check_kinds",
    "check_place",
    "export_folder",
    "needs_base",
    "write_merged",
]
