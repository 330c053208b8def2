"""Where experts can sit in a transformers model: its blocks, and the linear layers, feed-forward blocks and attention
layers inside them."""

import inspect
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from collegium.core.errors import BaseModelError, ConfigError, IncompatibleExpert
from collegium.core.tables import nearest
from collegium.models.parts import BottleneckWeights, FfnWeights, Ia3Weights, LoraWeights, Part, PrefixWeights

_FEED_FORWARD = ("mlp", "feed_forward", "ffn", "feedforward")
_ATTENTION = ("self_attn", "attn", "attention", "self_attention")
_HALVES = ("intermediate", "output")
"""BERT's feed-forward block has no module of its own: its halves lie in the block, and the second adds what the first
has read and normalises."""
_INSIDE = "self"
"""Where BERT's attention module keeps the queries, keys and values."""


@dataclass(frozen=True)
class Site:
    """A place for experts.

    block: which block it is in. shape: (inputs, outputs) of a linear layer or a feed-forward block, (key heads, size of
    a head) of an attention layer. tensors: a feed-forward block's parameters, name -> shape.
    first: of a feed-forward block in two halves, the path of the first; the site's own path is the second's.
    """

    what: Literal["linear", "feed_forward", "attention"]
    block: int
    shape: tuple[int, int]
    tensors: Mapping[str, tuple[int, ...]] | None = None
    first: str | None = None


class Halves(nn.Module):
    """A feed-forward block whose halves are modules side by side: f(x) = second(first(x), x)."""

    def __init__(self, first: nn.Module, second: nn.Module) -> None:
        """Take the modules as they are; they stay where they were, too."""
        super().__init__()
        for name, module in zip(_HALVES, (first, second), strict=True):
            self.add_module(name, module)

    def forward(self, hidden: Tensor) -> Tensor:
        """Return what the block says."""
        first, second = self.children()
        return second(first(hidden), hidden)


def site_module(model: nn.Module, path: str, site: Site) -> nn.Module:
    """Return the module at a place for experts; of a feed-forward block in two halves, both as one."""
    own = model.get_submodule(path)
    return own if site.first is None else Halves(model.get_submodule(site.first), own)


def find_blocks(inner: nn.Module, layers: int) -> nn.ModuleList:
    """Return the model's list of blocks: the outermost module list with one entry per layer."""
    lists = [
        (path.count("."), module)
        for path, module in inner.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) == layers
    ]
    if not lists:
        raise BaseModelError(
            f"{type(inner).__name__} has no module list of {layers} blocks; use a base whose blocks are one."
        )
    return min(lists, key=lambda pair: pair[0])[1]


def linear_shape(module: nn.Module) -> tuple[int, int] | None:
    """Return (inputs, outputs) of a linear layer or of GPT-2's `Conv1D`, None for any other module."""
    if isinstance(module, nn.Linear):
        return module.in_features, module.out_features
    if type(module).__name__ == "Conv1D" and hasattr(module, "nf"):
        rows, columns = module.weight.shape  # pyright: ignore[reportGeneralTypeIssues, reportAttributeAccessIssue]
        return int(rows), int(columns)
    return None


def block_sites(model: nn.Module, blocks: nn.ModuleList) -> dict[str, tuple[int, tuple[int, int]]]:
    """Return module path -> (block index, (inputs, outputs)) of every linear layer inside the blocks."""
    prefix = next(path for path, module in model.named_modules() if module is blocks)
    sites = {}
    for index, block in enumerate(blocks):
        for path, module in block.named_modules():
            shape = linear_shape(module)
            if shape is not None:
                sites[f"{prefix}.{index}.{path}"] = (index, shape)
    return sites


def expert_sites(model: nn.Module, blocks: nn.ModuleList, config: Any) -> dict[str, Site]:  # noqa: ANN401
    """Return module path -> site of every place for experts inside the blocks."""
    prefix = next(path for path, module in model.named_modules() if module is blocks)
    found = {path: Site("linear", block, shape) for path, (block, shape) in block_sites(model, blocks).items()}
    hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
    kept = int(getattr(config, "num_key_value_heads", None) or heads)
    size = int(getattr(config, "head_dim", None) or hidden // heads)
    for index, block in enumerate(blocks):
        children = dict(block.named_children())
        for name, module in children.items():
            path = f"{prefix}.{index}.{name}"
            if name in _FEED_FORWARD:
                found[path] = Site("feed_forward", index, (hidden, hidden), _shapes(module))
            elif name in _ATTENTION:
                inside = f"{path}.{_INSIDE}" if hasattr(module, _INSIDE) else path
                found[inside] = Site("attention", index, (kept, size))
        if _has_halves(children):
            first, second = (f"{prefix}.{index}.{name}" for name in _HALVES)
            tensors = _shapes(Halves(*(children[name] for name in _HALVES)))
            found[second] = Site("feed_forward", index, (hidden, hidden), tensors, first)
    return found


def _has_halves(children: Mapping[str, nn.Module]) -> bool:
    """Return whether a block's feed-forward block is in two halves, the second of which takes two tensors."""
    return children.keys() >= set(_HALVES) and len(inspect.signature(children[_HALVES[1]].forward).parameters) == 2


def _shapes(module: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in module.named_parameters()}


def check_part(part: Part, site: Site, *, where: str) -> None:
    """Raise IncompatibleExpert when an expert's part does not belong at a site of this kind and shape."""
    want, got = site.shape, _shape_of(part, site)
    if got is None:
        raise IncompatibleExpert(
            f"{where}: a part of kind {part.kind!r} has no place at this base's {site.what.replace('_', '-')} site."
        )
    if got == want:
        return
    if isinstance(part, FfnWeights):
        wanted, given = site.tensors or {}, {key: tuple(value.shape) for key, value in part.tensors.items()}
        odd = sorted(key for key in wanted.keys() | given.keys() if wanted.get(key) != given.get(key))
        raise IncompatibleExpert(
            f"{where}: {odd[0]!r} has shape {given.get(odd[0], 'none')}, in this base's block it has "
            f"{wanted.get(odd[0], 'none')}. It was made for another base; train it again on this one."
        )
    if isinstance(part, PrefixWeights):
        raise IncompatibleExpert(
            f"{where}: the prefix has (heads, size) {got}, this base has {want} there. It was made for another base."
        )
    raise IncompatibleExpert(
        f"{where} maps {got[0]} inputs to {got[1]} outputs, this base has {want[0]} and {want[1]} there. It was made "
        "for another base; train it again on this one."
    )


def _shape_of(part: Part, site: Site) -> tuple[int, int] | None:
    """Return the part's shape as its site's would be written, None where it has no place there."""
    match part, site.what:
        case LoraWeights(), "linear":
            return part.shape
        case Ia3Weights(), "linear":
            size = part.factors.shape[0]
            return (size, site.shape[1]) if part.side == "input" else (site.shape[0], size)
        case BottleneckWeights(), "feed_forward":
            return part.down.shape[1], part.up.shape[0]
        case FfnWeights(), "feed_forward":
            shapes = {key: tuple(value.shape) for key, value in part.tensors.items()}
            return site.shape if shapes == site.tensors else (-1, -1)
        case PrefixWeights(), "attention":
            return part.keys.shape[0], part.keys.shape[2]
        case _:
            return None


def parse_layers(layers: Any, count: int) -> frozenset[int]:  # noqa: ANN401 - checked here
    """Return the block indices that `all`, `top:K` or a list of indices names.

    >>> sorted(parse_layers("top:2", 5))
    [3, 4]
    """
    if layers == "all":
        return frozenset(range(count))
    if isinstance(layers, str) and (match := re.fullmatch(r"top:([1-9]\d*)", layers)):
        top = int(match[1])
        if top <= count:
            return frozenset(range(count - top, count))
        raise ConfigError(f"this base has {count} layers, so `top:{top}` is too many; use at most `top:{count}`.")
    if not isinstance(layers, str) and isinstance(layers, Iterable):
        chosen = list(layers)
        if chosen and all(type(layer) is int and 0 <= layer < count for layer in chosen):
            return frozenset(chosen)
    raise ConfigError(f"layers are `all`, `top:K` or indices from 0 to {count - 1}, got {layers!r}.")


def choose_sites(
    sites: dict[str, tuple[int, tuple[int, int]]], targets: Sequence[str] | str | None, layers: frozenset[int]
) -> dict[str, tuple[int, int]]:
    """Return path -> (inputs, outputs) of the sites in these layers that the targets name.

    A list holds module names as they end (`q_proj`), a string is a pattern for the whole path, None means all.
    """
    within = {path: shape for path, (layer, shape) in sites.items() if layer in layers}
    if targets is None:
        return within
    if isinstance(targets, str):
        pattern = _compile(targets)
        chosen = {path: shape for path, shape in within.items() if pattern.fullmatch(path)}
        if not chosen:
            raise ConfigError(f"the pattern {targets!r} matches no linear layer; one is called {next(iter(sites))!r}.")
        return chosen
    leaves = sorted({path.rpartition(".")[2] for path in sites})
    for target in targets:
        if not any(path == target or path.endswith(f".{target}") for path in within):
            raise ConfigError(f"no linear layer is called {target!r}. {nearest(target, leaves)}")
    return {
        path: shape
        for path, shape in within.items()
        if any(path == target or path.endswith(f".{target}") for target in targets)
    }


def _compile(pattern: str) -> re.Pattern[str]:
    try:
        return re.compile(pattern)
    except re.error as error:
        raise ConfigError(f"targets {pattern!r} is not a regular expression: {error}.") from error
