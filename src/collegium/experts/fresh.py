"""The first weights of an expert of each kind, and where they go.

* `lora` [hu2022lora]: A ~ U(-1/sqrt(inputs), 1/sqrt(inputs)), B = 0.
* `ia3` [liu2022ia3]: factors of one, on the outputs that make keys and values and on the input of a feed-forward
  block's last layer. Where one layer makes queries, keys and values, all its outputs are rescaled, as PEFT does.
* `bottleneck` [he2022unified]: the down matrix like LoRA's A, the up matrix and both biases zero.
* `ffn` [gururangan2022demix]: a copy of the base's own block.
* `prefix` [li2021prefix]: the base's own keys and values of the first tokens of the domain's text. Departure: no
  network computes the prefix during training.

The first four change nothing until they are trained. A fresh prefix does: the base answers as if it had read those
tokens. Each matrix is drawn from a generator of its own, named after seed, kind, label and place.
"""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from collegium.core.errors import BaseModelError, ConfigError
from collegium.core.randomness import generator
from collegium.experts.recipe import AdapterKind, FitConfig
from collegium.models import (
    Adapter,
    Base,
    BottleneckWeights,
    FfnWeights,
    Ia3Weights,
    LoraWeights,
    Part,
    PrefixWeights,
    Site,
)
from collegium.models.rotary import base_keys, turned, why_not_rotary
from collegium.models.sites import parse_layers

_KEYS_AND_VALUES = ("k_proj", "v_proj", "key", "value", "k", "v", "k_lin", "v_lin")
"""Names of layers that make keys or values alone."""
_ALL_THREE = ("query_key_value", "c_attn", "qkv_proj", "Wqkv", "qkv")
"""Names of layers that make queries, keys and values at once."""

Places = Mapping[str, Site]


def places_of(base: Base, config: FitConfig) -> dict[str, Site]:
    """Return the places that an expert of these settings changes: module path -> site.

    Raises ConfigError for layers and targets that the base lacks, BaseModelError where it has no place of that kind.

    >>> from collegium.testing.pico import pico_base
    >>> sorted(places_of(pico_base(), FitConfig(kind="ia3", layers="top:1")))[-1]
    'model.layers.1.self_attn.v_proj'
    """
    return PLACES[config.kind](base, config)


def fresh_adapter(base: Base, config: FitConfig, label: str, *, tokens: Int[Tensor, "window seq"]) -> Adapter:
    """Return the first weights of an expert, on the base's device and ready to be trained.

    config: resolved. label: under which what is random is drawn. tokens: the text a prefix starts from; negative ones
    are padding.

    >>> from collegium.experts.recipe import resolve
    >>> from collegium.testing.pico import pico_base
    >>> config = resolve(FitConfig(kind="ia3", layers="top:1"))
    >>> fresh = fresh_adapter(pico_base(), config, "law", tokens=torch.zeros(1, 8, dtype=torch.long))
    >>> fresh["model.layers.1.self_attn.v_proj"].tensors["factors"][:3].tolist()
    [1.0, 1.0, 1.0]
    """
    adapter = FRESH[config.kind](base, places_of(base, config), config, label, tokens)
    return with_tensors(adapter, lambda tensor: tensor.to(base.device).detach().requires_grad_())


def with_tensors(adapter: Adapter, change: Callable[[Tensor], Tensor]) -> dict[str, Part]:
    """Return an adapter with every tensor changed."""
    return {
        path: part_with(part, {name: change(each) for name, each in part.tensors.items()})
        for path, part in adapter.items()
    }


def part_with(part: Part, tensors: Mapping[str, Tensor]) -> Part:
    """Return a part of the same kind with other tensors."""
    return FfnWeights(tensors) if isinstance(part, FfnWeights) else dataclasses.replace(part, **tensors)


def numbers_of(base: Base, config: FitConfig) -> int:
    """Return how many numbers an expert of these settings holds.

    >>> from collegium.testing.pico import pico_base
    >>> numbers_of(pico_base(), FitConfig(kind="prefix", prefix_tokens=2))
    256
    """
    last = last_layers(base)
    return sum(COUNT[config.kind](site, config, path in last) for path, site in places_of(base, config).items())


def _linear(base: Base, config: FitConfig) -> dict[str, Site]:
    return {path: base.sites[path] for path in base.linear_sites(config.targets, config.layers)}


def _rescaled(base: Base, config: FitConfig) -> dict[str, Site]:
    if config.targets is not None:
        return _linear(base, config)
    layers = parse_layers(config.layers, len(base.blocks))
    inside = {path: site for path, site in base.sites.items() if site.what == "linear" and site.block in layers}
    leaves = {path: path.rpartition(".")[2] for path in inside}
    attention = [path for path, site in base.sites.items() if site.what == "attention"]
    own = [path for path in inside if path.rpartition(".")[0] in attention]
    keys = [path for path in own if leaves[path] in _KEYS_AND_VALUES]
    chosen = {*(keys or [path for path in own if leaves[path] in _ALL_THREE]), *(last_layers(base) & inside.keys())}
    if not chosen:
        raise ConfigError(
            f"{base.name} ({type(base.model).__name__}) has no layers of names known to make keys and values; say "
            f"which are to be rescaled: --targets, as their paths end ({', '.join(sorted(set(leaves.values())))})."
        )
    return {path: site for path, site in inside.items() if path in chosen}


def last_layers(base: Base) -> set[str]:
    """Return the paths of the last linear layers of feed-forward blocks, whose inputs IA3 rescales."""
    blocks = [path for path, site in base.sites.items() if site.what == "feed_forward"]
    linear = [path for path, site in base.sites.items() if site.what == "linear"]
    found = (next((path for path in reversed(linear) if path.startswith(f"{block}.")), None) for block in blocks)
    return {path for path in found if path is not None}


def _at(what: Literal["feed_forward", "attention"]) -> Callable[[Base, FitConfig], dict[str, Site]]:
    def places(base: Base, config: FitConfig) -> dict[str, Site]:
        layers = parse_layers(config.layers, len(base.blocks))
        found = {path: site for path, site in base.sites.items() if site.what == what and site.block in layers}
        if not found:
            children = sorted({name for block in base.blocks for name, _ in block.named_children()})
            raise BaseModelError(
                f"{base.name} ({type(base.model).__name__}) has no {what.replace('_', '-')} module of a name that "
                f"Collegium knows, so it takes no expert of kind {config.kind!r}; its blocks have "
                f"{', '.join(children)}. Use kind lora."
            )
        return found

    return places


def _fresh_lora(base: Base, places: Places, config: FitConfig, label: str, tokens: Tensor) -> Adapter:
    scale = _scale(config)
    return {
        path: LoraWeights(
            _uniform(config.rank, site.shape[0], config, label, path), torch.zeros(site.shape[1], config.rank), scale
        )
        for path, site in places.items()
    }


def _fresh_ia3(base: Base, places: Places, config: FitConfig, label: str, tokens: Tensor) -> Adapter:
    inputs = last_layers(base)
    return {
        path: Ia3Weights(torch.ones(site.shape[0]), "input")
        if path in inputs
        else Ia3Weights(torch.ones(site.shape[1]))
        for path, site in places.items()
    }


def _fresh_bottleneck(base: Base, places: Places, config: FitConfig, label: str, tokens: Tensor) -> Adapter:
    scale, rank = _scale(config), config.rank
    return {
        path: BottleneckWeights(
            _uniform(rank, site.shape[0], config, label, path),
            torch.zeros(rank),
            torch.zeros(site.shape[1], rank),
            torch.zeros(site.shape[1]),
            scale,
        )
        for path, site in places.items()
    }


def _fresh_ffn(base: Base, places: Places, config: FitConfig, label: str, tokens: Tensor) -> Adapter:
    return {
        path: FfnWeights({name: each.detach().float().clone() for name, each in _parameters(base, path).items()})
        for path in places
    }


def _fresh_prefix(base: Base, places: Places, config: FitConfig, label: str, tokens: Tensor) -> Adapter:
    text, length = tokens[tokens >= 0].tolist(), config.prefix_tokens
    base.check_length(length)
    read = base_keys(base, (text * (length // max(1, len(text)) + 1))[:length])
    keys = {site.block: read[site.block][0] for site in places.values()}
    if not why_not_rotary(base, by=length):
        keys = turned(base, keys, by=-length)
    return {path: PrefixWeights(keys[site.block].float(), read[site.block][1].float()) for path, site in places.items()}


def _parameters(base: Base, path: str) -> dict[str, Tensor]:
    return dict(base.module(path).named_parameters())


def _uniform(rank: int, inputs: int, config: FitConfig, label: str, path: str) -> Float[Tensor, "rank input"]:
    draw = generator(config.seed, config.kind, label, path)
    return torch.empty(rank, inputs).uniform_(-(inputs**-0.5), inputs**-0.5, generator=draw)


def _scale(config: FitConfig) -> float:
    return (config.alpha or 2.0 * config.rank) / config.rank


PLACES: Mapping[AdapterKind, Callable[[Base, FitConfig], dict[str, Site]]] = {
    "lora": _linear,
    "ia3": _rescaled,
    "bottleneck": _at("feed_forward"),
    "ffn": _at("feed_forward"),
    "prefix": _at("attention"),
}
"""Kind -> the places that such an expert changes."""

FRESH: Mapping[AdapterKind, Callable[[Base, Places, FitConfig, str, Tensor], Adapter]] = {
    "lora": _fresh_lora,
    "ia3": _fresh_ia3,
    "bottleneck": _fresh_bottleneck,
    "ffn": _fresh_ffn,
    "prefix": _fresh_prefix,
}
"""Kind -> the first weights, before they are put on the base's device."""

COUNT: Mapping[AdapterKind, Callable[[Site, FitConfig, bool], int]] = {
    "lora": lambda site, config, last: config.rank * sum(site.shape),
    "ia3": lambda site, config, last: site.shape[0] if last else site.shape[1],
    "bottleneck": lambda site, config, last: config.rank * (sum(site.shape) + 1) + site.shape[1],
    "ffn": lambda site, config, last: sum(torch.Size(shape).numel() for shape in (site.tensors or {}).values()),
    "prefix": lambda site, config, last: 2 * config.prefix_tokens * site.shape[0] * site.shape[1],
}
"""Kind -> the numbers at one place; whether it is a block's last layer matters to IA3."""
