"""vLLM: one PEFT folder per expert, and the line that serves the base with all of them.

vLLM reads a single `r` and `lora_alpha` from an adapter and passes over `rank_pattern` and `alpha_pattern`: an adapter
whose ranks or scales differ from layer to layer would be served wrong without a word. Such an adapter is written evened
out (`even`): the same changes at one rank and one scale.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collegium.core.errors import IncompatibleExpert
from collegium.core.files import write_new
from collegium.experts.export.even import even
from collegium.experts.export.formats import Served, check_modules, lora_of
from collegium.experts.folder import write_payload
from collegium.experts.payloads import AdapterPayload, Expert

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM accepts as --max-lora-rank."""

GATED = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")

MODULES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(
        ("llama", "mistral", "qwen2", "qwen3", "gemma", "gemma2", "gemma3_text", "granite", "olmo2", "smollm3"), GATED
    ),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "starcoder2": ("q_proj", "k_proj", "v_proj", "o_proj", "c_fc", "c_proj"),
}
"""Model types that vLLM's list of supported models marks for LoRA (not GPT-2, not GPT-NeoX) -> their layers."""

LINE_FILE = "vllm.txt"


def check_vllm(experts: Sequence[Expert], served: Served) -> None:
    """Raise IncompatibleExpert, naming it, for a base, a layer or a rank that vLLM cannot serve."""
    for expert in experts:
        check_modules(expert, served, MODULES, program="vLLM")
        accepted_rank(expert)


def accepted_rank(expert: Expert) -> int:
    """Return the smallest --max-lora-rank that takes an expert; raises IncompatibleExpert above vLLM's largest."""
    rank = max((part.rank for part in lora_of(expert).values()), default=1)
    found = next((each for each in RANKS if each >= rank), None)
    if found is None:
        raise IncompatibleExpert(
            f"expert {expert.name!r} has rank {rank}, vLLM serves ranks up to {RANKS[-1]}. Export a merged checkpoint "
            "instead (--to merged), or compress the expert to a smaller rank."
        )
    return found


def write_vllm(experts: Sequence[Expert], served: Served, folder: Path, place: Path) -> dict[str, Any]:
    """Write a PEFT folder for each expert, and the command line that serves them."""
    for expert in experts:
        write_even(expert, folder / expert.name)
    line = serving_line(experts, served, place)
    write_new(folder / LINE_FILE, f"{line}\n".encode())
    return {"adapters": {expert.name: str(place / expert.name) for expert in experts}, "command": line}


def serving_line(experts: Sequence[Expert], served: Served, place: Path) -> str:
    """Return the command line that serves a base with these experts, each under its own name."""
    words = ["vllm", "serve", served.name, *(["--revision", served.revision] if served.revision else [])]
    words += ["--enable-lora", "--max-lora-rank", str(max(map(accepted_rank, experts)))]
    words += ["--max-loras", str(len(experts)), "--lora-modules"]
    return shlex.join([*words, *(f"{expert.name}={place / expert.name}" for expert in experts)])


def write_even(expert: Expert, folder: Path) -> None:
    """Write an expert as a PEFT folder with one rank and one scale."""
    assert isinstance(expert.payload, AdapterPayload), "only low-rank experts come here"
    folder.mkdir()
    write_payload(AdapterPayload(even(expert.payload.lora), fan_in_fan_out=expert.payload.fan_in_fan_out), folder)
