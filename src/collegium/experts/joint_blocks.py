"""The feed-forward blocks that domains have of their own in a model which shares everything else  [DEMix]."""

import math
from collections.abc import Iterable, Mapping, Sequence

from torch import Tensor, nn

from collegium.models import Base, FfnWeights

SHARED = "shared"
"""What comes before the name of a parameter that all domains share; a domain's begin with the domain's own name."""


class Blocks:
    """Each domain's own feed-forward blocks, all of them copies of the model's at first; the model has one's at a time.

    They take the place of the model's own parameters, so that a domain's batch runs through no other block, costs what
    the dense model costs, and leaves no gradient anywhere else.
    """

    def __init__(self, model: Base, places: Iterable[str], domains: Sequence[str]) -> None:
        """Copy the blocks at these places for each domain."""
        self.model, self.domains = model, tuple(domains)
        self._holders: dict[str, tuple[nn.Module, str]] = {}
        own: dict[str, nn.Parameter] = {}
        for path in places:
            block = model.module(path)
            for name, parameter in block.named_parameters():
                above, _, leaf = name.rpartition(".")
                self._holders[f"{path}:{name}"] = block.get_submodule(above), leaf
                own[f"{path}:{name}"] = parameter
        inside = {id(parameter) for parameter in own.values()}
        everything = model.model.named_parameters()
        self.shared: dict[str, Tensor] = {name: each for name, each in everything if id(each) not in inside}
        self._of = {
            domain: {key: nn.Parameter(each.detach().clone()) for key, each in own.items()} for domain in self.domains
        }

    @property
    def parameters(self) -> dict[str, Tensor]:
        """Everything that is trained, by names that say whose it is."""
        own = {f"{domain}/{key}": each for domain, mine in self._of.items() for key, each in mine.items()}
        return {f"{SHARED}/{name}": each for name, each in self.shared.items()} | own

    def names_of(self, domain: str) -> frozenset[str]:
        """Return the names of a domain's own parameters."""
        return frozenset(f"{domain}/{key}" for key in self._of[domain])

    def wear(self, domain: str) -> None:
        """Let the model have a domain's blocks."""
        self._put(self._of[domain])

    def settle(self) -> None:
        """Let the model have the average of all domains' blocks: what a text without an expert is read with."""
        several = list(self._of.values())
        self._put({key: nn.Parameter(_mean([each[key] for each in several])) for key in self._holders})
        self.model.model.requires_grad_(False)

    def adapter(self, domain: str) -> dict[str, FfnWeights]:
        """Return copies of a domain's blocks, as an expert of kind `ffn` holds them."""
        found: dict[str, dict[str, Tensor]] = {}
        for key, parameter in self._of[domain].items():
            path, _, name = key.partition(":")
            found.setdefault(path, {})[name] = parameter.detach().to("cpu", copy=True)
        return {path: FfnWeights(tensors) for path, tensors in found.items()}

    def _put(self, parameters: Mapping[str, nn.Parameter]) -> None:
        for key, (holder, leaf) in self._holders.items():
            setattr(holder, leaf, parameters[key])


def joint_numbers(base: Base, places: Iterable[str], domains: int) -> int:
    """Return how many numbers a model with blocks for so many domains holds.

    >>> from collegium.testing.pico import pico_base
    >>> base = pico_base()
    >>> joint_numbers(base, ["model.layers.1.mlp"], 3) - joint_numbers(base, ["model.layers.1.mlp"], 1)
    49152
    """
    one = sum(math.prod(shape) for path in places for shape in (base.sites[path].tensors or {}).values())
    whole = sum(parameter.numel() for parameter in base.model.parameters())
    return whole + (domains - 1) * one


def _mean(tensors: Sequence[Tensor]) -> Tensor:
    """Return the mean, added up in double precision."""
    total = sum((each.detach().double().cpu() for each in tensors[1:]), start=tensors[0].detach().double().cpu())
    return (total / len(tensors)).to(tensors[0])
