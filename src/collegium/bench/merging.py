"""V7: merging four low-rank experts into one of the same rank, against PEFT's `add_weighted_adapter(svd)`."""

import functools
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Any

import torch
from torch import nn

from collegium.bench.curves import growth
from collegium.bench.kinds import Bench, Finding, Progress, Target
from collegium.bench.peers import NO_PEFT, find_peer
from collegium.bench.timing import Timing, alternate
from collegium.core.randomness import generator
from collegium.experts.algebra import compress, delta_of_adapter, weighted_sum
from collegium.models import LoraWeights

RANK = 16
WEIGHTS = (0.6, 0.4, -0.3, 0.8)
_PATH = "layer"
_OURS, _THEIRS = "collegium", "peft add_weighted_adapter(svd)"


def drawn_experts(size: int) -> tuple[dict[str, LoraWeights], ...]:
    """Return random experts on one square layer."""
    drawing = generator(0, "bench merging", str(size))
    return tuple(
        {
            _PATH: LoraWeights(
                torch.randn(RANK, size, generator=drawing) / size**0.5,
                torch.randn(size, RANK, generator=drawing) / RANK**0.5,
            )
        }
        for _ in WEIGHTS
    )


def _ours(experts: Sequence[Mapping[str, LoraWeights]]) -> LoraWeights:
    merged = compress(weighted_sum([delta_of_adapter(each) for each in experts], WEIGHTS), RANK).adapter[_PATH]
    assert isinstance(merged, LoraWeights)
    return merged


class _OneLayer(nn.Module):
    """A model of one linear layer."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.layer = nn.Linear(size, size, bias=False)


def _their_model(peft: ModuleType, experts: Sequence[Mapping[str, LoraWeights]], size: int) -> Any:  # noqa: ANN401
    """Return a PEFT model with the same experts."""
    config = peft.LoraConfig(r=RANK, lora_alpha=RANK, target_modules=[_PATH])
    model = peft.PeftModel(_OneLayer(size), config, adapter_name="expert-0")
    for number, expert in enumerate(experts):
        if number:
            model.add_adapter(f"expert-{number}", config)
        layer = model.base_model.model.layer
        with torch.no_grad():
            layer.lora_A[f"expert-{number}"].weight.copy_(expert[_PATH].a)
            layer.lora_B[f"expert-{number}"].weight.copy_(expert[_PATH].b)
    return model


@torch.no_grad()
def _theirs(model: Any) -> LoraWeights:  # noqa: ANN401 - a PEFT model
    """Return PEFT's merge, which the model forgets again."""
    names = [f"expert-{number}" for number in range(len(WEIGHTS))]
    model.add_weighted_adapter(names, list(WEIGHTS), "merged", combination_type="svd", svd_rank=RANK)
    layer = model.base_model.model.layer
    merged = LoraWeights(layer.lora_A["merged"].weight, layer.lora_B["merged"].weight, layer.scaling["merged"])
    model.delete_adapter("merged")
    return merged


def relative_error(merged: LoraWeights, experts: Sequence[Mapping[str, LoraWeights]]) -> float:
    """Return the relative Frobenius distance of a merge from the dense weighted sum, in double precision."""
    parts = [each[_PATH] for each in experts]
    terms = [weight * (part.b.double() @ part.a.double()) for weight, part in zip(WEIGHTS, parts, strict=True)]
    wanted = torch.stack(terms).sum(0)
    found = merged.scale * (merged.b.double() @ merged.a.double())
    return float((found - wanted).norm() / wanted.norm())


def _run(quick: bool, progress: Progress) -> Finding:
    sizes, repeats = ((32, 64, 96, 128), 2) if quick else ((256, 512, 1024, 2048), 5)
    peer, rows, ratios, differences = find_peer("peft"), [], {}, []
    curves: dict[str, dict[int, Timing]] = {}
    gap = 0.0
    for size in sizes:
        progress(f"V7: d = {size}")
        experts = drawn_experts(size)
        contestants: dict[str, Callable[[], LoraWeights]] = {_OURS: functools.partial(_ours, experts)}
        if peer is not None:
            contestants[_THEIRS] = functools.partial(_theirs, _their_model(peer, experts, size))
        merged = {name: run() for name, run in contestants.items()}
        errors = {name: relative_error(each, experts) for name, each in merged.items()}
        timings = alternate(contestants, repeats=repeats)
        for name, timing in timings.items():
            curves.setdefault(name, {})[size] = timing
            rows.append({"contestant": name, "size": size, **timing.row(), "relative_error": errors[name]})
        if peer is not None:
            ratios[f"speedup_{size}"] = timings[_THEIRS].least / timings[_OURS].least
            gap = max(gap, errors[_OURS] - errors[_THEIRS])
            differences.append(float((merged[_OURS].delta() - merged[_THEIRS].delta()).abs().max()))
    if peer is not None:
        ratios["error_above_peers"] = gap
    targets = (
        Target("speedup_512", "at least", 30.0),
        Target("speedup_1024", "at least", 60.0),
        Target("speedup_2048", "at least", 120.0),
        Target("error_above_peers", "at most", 1e-5),
    )
    grown = [point for name, timings in curves.items() for point in growth(name, "width", timings)]
    roles = {"ours": _OURS, "peer": _THEIRS}
    notes = () if peer else (NO_PEFT,)
    return Finding(rows, ratios, targets, max(differences, default=None), notes, growth=grown, roles=roles)


def _profiled(quick: bool) -> dict[str, Callable[[], object]]:
    size = 128 if quick else 2048
    return {f"width {size}": functools.partial(_ours, drawn_experts(size))}


V7 = Bench(
    "V7",
    "exact merge of 4 experts of rank 16, d = 512, 1024, 2048, against PEFT's svd",
    "30x, 60x, 120x faster at equal error",
    _run,
    peers=("peft",),
    profiled=_profiled,
)
