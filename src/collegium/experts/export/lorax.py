"""LoRAX: one PEFT folder per expert (its path is the adapter_id), the launcher's line and a sample request for each.

LoRAX reads a single `r` and `lora_alpha`, as vLLM does, and it passes over a kind of layer (all `q_proj`, say) unless
the adapter changes it in every block. So what is written is evened out, with changes of zero where there was none.
"""

import json
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from collegium.core.errors import IncompatibleExpert
from collegium.core.files import write_new
from collegium.experts.export.even import even
from collegium.experts.export.formats import Served, check_modules
from collegium.experts.export.vllm import GATED
from collegium.experts.folder import write_payload
from collegium.experts.payloads import AdapterPayload, Expert
from collegium.models import LoraWeights

MODULES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "gemma", "cohere"), GATED),
    "phi": ("q_proj", "k_proj", "v_proj", "dense", "fc1", "fc2"),
    "phi3": ("qkv_proj", "o_proj", "gate_up_proj", "down_proj"),
    "gpt2": ("c_attn", "c_proj", "c_fc"),
    "bloom": ("query_key_value", "dense", "dense_h_to_4h", "dense_4h_to_h"),
}
"""Model types -> layers that LoRAX's page on LoRA lists."""

LINE_FILE = "lorax.txt"
PROMPT = "Once upon a time"


def check_lorax(experts: Sequence[Expert], served: Served) -> None:
    """Raise IncompatibleExpert, naming it, for a base or a layer that LoRAX would pass over."""
    for expert in experts:
        check_modules(expert, served, MODULES, program="LoRAX")
        every_block(expert, served)


def write_lorax(experts: Sequence[Expert], served: Served, folder: Path, place: Path) -> dict[str, Any]:
    """Write a PEFT folder for each expert, and a text file with the launcher's line and the requests."""
    requests = {expert.name: sample_request(place / expert.name) for expert in experts}
    for expert in experts:
        assert isinstance(expert.payload, AdapterPayload), "only low-rank experts come here"
        home = folder / expert.name
        home.mkdir()
        write_payload(AdapterPayload(every_block(expert, served), fan_in_fan_out=expert.payload.fan_in_fan_out), home)
    revision = ["--revision", served.revision] if served.revision else []
    line = shlex.join(["lorax-launcher", "--model-id", served.name, *revision])
    calls = [_call(request) for request in requests.values()]
    write_new(folder / LINE_FILE, "".join(f"{each}\n" for each in (line, *calls)).encode())
    adapters = {expert.name: str(place / expert.name) for expert in experts}
    return {"adapters": adapters, "command": line, "requests": requests}


def sample_request(folder: Path) -> dict[str, Any]:
    """Return the body of a request that asks the adapter in a folder of the server's machine."""
    parameters = {"adapter_id": str(folder), "adapter_source": "local", "max_new_tokens": 64}
    return {"inputs": PROMPT, "parameters": parameters}


def every_block(expert: Expert, served: Served) -> dict[str, LoraWeights]:
    """Return an expert's changes at one rank and scale, with a zero for each block that lacks one.

    Raises IncompatibleExpert when a kind of layer has other shapes from block to block.
    """
    assert isinstance(expert.payload, AdapterPayload), "only low-rank experts come here"
    adapter = expert.payload.lora
    shapes: dict[str, tuple[int, int]] = {}
    for path, part in adapter.items():
        head, tail = _around_index(path)
        for block in range(served.config.num_hidden_layers):
            other = f"{head}{block}{tail}"
            if shapes.setdefault(other, part.shape) != part.shape:
                raise IncompatibleExpert(
                    f"expert {expert.name!r}: layers {tail.strip('.')!r} differ in shape from block to block, which "
                    "LoRAX cannot serve. Export a merged checkpoint instead (--to merged)."
                )
    return even(adapter, shapes=shapes)


def _around_index(path: str) -> tuple[str, str]:
    """Return what stands before and behind the block's index: `model.layers.` and `.mlp.up_proj`."""
    parts = path.split(".")
    place = next(index for index, part in enumerate(parts) if part.isdigit())
    return ".".join(parts[:place]) + ".", "." + ".".join(parts[place + 1 :])


def _call(request: Mapping[str, Any]) -> str:
    words = ["curl", "127.0.0.1:8080/generate", "-X", "POST", "-H", "Content-Type: application/json"]
    return shlex.join([*words, "-d", json.dumps(request)])
