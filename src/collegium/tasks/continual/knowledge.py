"""What a learner knows after some tasks: adapters, heads, and tensors of its own; saved as named tensors."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from torch import Tensor

from collegium.core.errors import CorruptExpert
from collegium.experts.fresh import part_with, with_tensors
from collegium.models import Adapter, Base, HeadWeights


@dataclass(frozen=True, eq=False)
class Knowledge:
    """adapters: name -> adapter, in the order in which they came. heads: task -> head. extra: a method's own."""

    adapters: Mapping[str, Adapter] = field(default_factory=dict)
    heads: Mapping[str, HeadWeights] = field(default_factory=dict)
    extra: Mapping[str, Tensor] = field(default_factory=dict)

    def having(
        self,
        *,
        adapters: Mapping[str, Adapter] | None = None,
        heads: Mapping[str, HeadWeights] | None = None,
        extra: Mapping[str, Tensor] | None = None,
    ) -> "Knowledge":
        """Return this knowledge with more, or with other things of the same names."""
        return replace(
            self,
            adapters={**self.adapters, **(adapters or {})},
            heads={**self.heads, **(heads or {})},
            extra={**self.extra, **(extra or {})},
        )

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(each.numel() for each in self.to_tensors().values())

    def to_tensors(self) -> dict[str, Tensor]:
        """Return all of it as tensors by a name each, in the order in which they came."""
        found = {f"extra:{name}": tensor for name, tensor in self.extra.items()}
        for name, head in self.heads.items():
            found |= {f"head:{name}:{key}": tensor for key, tensor in head.tensors.items()}
        for name, adapter in self.adapters.items():
            found |= adapter_tensors(adapter, f"adapter:{name}:")
        return {name: tensor.detach() for name, tensor in found.items()}

    @staticmethod
    def from_tensors(
        tensors: Mapping[str, Tensor], *, like: Adapter, adapters: Sequence[str], heads: Sequence[str]
    ) -> "Knowledge":
        """Return what tensors hold. like: an adapter of the same shape. Raises CorruptExpert for what is missing."""
        try:
            return Knowledge(
                {name: adapter_from(tensors, f"adapter:{name}:", like) for name in adapters},
                {name: HeadWeights(tensors[f"head:{name}:weight"], tensors.get(f"head:{name}:bias")) for name in heads},
                {name.removeprefix("extra:"): each for name, each in tensors.items() if name.startswith("extra:")},
            )
        except KeyError as error:
            raise CorruptExpert(f"what a learner knew lacks {error.args[0]!r}; run it again.") from error


def adapter_tensors(adapter: Adapter, prefix: str = "") -> dict[str, Tensor]:
    """Return an adapter's tensors by a name each."""
    return {f"{prefix}{path}:{key}": each for path, part in adapter.items() for key, each in part.tensors.items()}


def adapter_from(tensors: Mapping[str, Tensor], prefix: str, like: Adapter) -> Adapter:
    """Return the adapter that such tensors are."""
    return {
        path: part_with(part, {key: tensors[f"{prefix}{path}:{key}"] for key in part.tensors})
        for path, part in like.items()
    }


def learnable(adapter: Adapter) -> Adapter:
    """Return a copy of an adapter, ready to be trained."""
    return with_tensors(adapter, lambda tensor: tensor.detach().clone().requires_grad_())


def learnt(adapter: Adapter) -> Adapter:
    """Return a copy of an adapter that is trained no more."""
    return with_tensors(adapter, lambda tensor: tensor.detach().clone())


def learnable_head(head: HeadWeights) -> HeadWeights:
    """Return a copy of a head, ready to be trained."""
    bias = None if head.bias is None else head.bias.detach().clone().requires_grad_()
    return HeadWeights(head.weight.detach().clone().requires_grad_(), bias, head.module)


def learnt_head(head: HeadWeights) -> HeadWeights:
    """Return a copy of a head that is trained no more."""
    bias = None if head.bias is None else head.bias.detach().clone()
    return HeadWeights(head.weight.detach().clone(), bias, head.module)


@contextmanager
def wearing(base: Base, adapters: Mapping[str, Adapter]) -> Iterator[tuple[str, ...]]:
    """Give the keys under which adapters are attached to a base inside the `with`, in order."""
    keys: list[str] = []
    try:
        for name, adapter in adapters.items():
            key = f".task {name}"
            base.attach(key, adapter)
            keys.append(key)
        yield tuple(keys)
    finally:
        for key in keys:
            base.detach(key)
