"""Bases and random experts that benches measure with."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import torch

from collegium.core.cards import ExpertCard
from collegium.core.randomness import derive_seed
from collegium.experts import Expert, adapter_payload, save_expert
from collegium.models import Adapter, Base, LoraWeights, load_base
from collegium.testing.pico import VOCAB_SIZE, byte_tokenizer, pico_base, random_adapter

RANK = 16
TOP_LAYERS = "top:10"

_TOY: Mapping[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 256,
    "intermediate_size": 688,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "max_position_embeddings": 512,
    "bos_token_id": 256,
    "eos_token_id": 257,
    "pad_token_id": None,
}


def bench_base(quick: bool, *, dtype: Literal["float32", "bfloat16"] = "float32") -> Base:
    """Return the default base, or a pico model for a quick run."""
    if not quick:
        return load_base("smollm2-135m", dtype=dtype)
    pico = pico_base()
    model = pico.model.to(getattr(torch, dtype))
    return Base.from_model(model, pico.tokenizer, name=pico.name, source=pico.source)


def toy_base() -> Base:
    """Return the base of shape `toy`: a random Llama of width 256 and 4 layers, with 28 slots for experts.

    >>> len(toy_base().linear_sites())
    28
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(0, "bench toy"))
        model = LlamaForCausalLM(LlamaConfig(**_TOY))
    return Base.from_model(model, byte_tokenizer(), name="toy", source="a random Llama, width 256, 4 layers")


def attach_experts(base: Base, count: int, *, quick: bool) -> tuple[str, ...]:
    """Return the names of `count` random experts, attached on the top layers."""
    names = tuple(f"expert-{number}" for number in range(count))
    for number, name in enumerate(names):
        layers, rank = ("top:1", 4) if quick else (TOP_LAYERS, RANK)
        base.attach(name, random_adapter(base, number, rank=rank, layers=layers, scale=0.05))
    return names


def peaked(adapter: Adapter) -> dict[str, LoraWeights]:
    """Return the low-rank parts with each direction a quarter as strong as the one before it.

    Their first singular vector is then clear-cut, and a few power iterations (PEFT's Arrow) find what an exact
    decomposition finds.
    """
    return {
        path: LoraWeights(part.a * (0.25 ** torch.arange(part.rank))[:, None], part.b, part.scale)
        for path, part in adapter.items()
        if isinstance(part, LoraWeights)
    }


def save_adapters(base: Base, adapters: Mapping[str, Adapter], folder: Path) -> dict[str, Path]:
    """Return name -> the folder that each adapter was written to, an expert of ours which PEFT reads."""
    for name, adapter in adapters.items():
        card = ExpertCard(name=name, kind="lora", base=base.fingerprint)
        save_expert(Expert(card, adapter_payload(base, adapter)), folder / name)
    return {name: folder / name for name in adapters}
