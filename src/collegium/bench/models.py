"""Bases and random experts that benches measure with."""

from collegium.models import Base, load_base
from collegium.testing.pico import pico_base, random_adapter

RANK = 16
TOP_LAYERS = "top:10"


def bench_base(quick: bool) -> Base:
    """Return the default base in float32, or a pico model for a quick run."""
    return pico_base() if quick else load_base("smollm2-135m", dtype="float32")


def attach_experts(base: Base, count: int, *, quick: bool) -> tuple[str, ...]:
    """Return the names of `count` random experts, attached on the top layers."""
    names = tuple(f"expert-{number}" for number in range(count))
    for number, name in enumerate(names):
        layers, rank = ("top:1", 4) if quick else (TOP_LAYERS, RANK)
        base.attach(name, random_adapter(base, number, rank=rank, layers=layers, scale=0.05))
    return names
