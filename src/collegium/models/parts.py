"""What an expert changes, place by place: low-rank, rescaling, parallel block, exchanged block, prefix.

A part is bare weights; how many of them are computed at once is the business of the slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from jaxtyping import Float
from torch import Tensor, nn

from collegium.core.errors import IncompatibleExpert


@dataclass(frozen=True, eq=False)
class LoraWeights:
    """One low-rank change of a linear layer: y = W x + scale * B (A x)  [LoRA, hu2022lora].

    Raises IncompatibleExpert when A and B differ in rank.
    """

    kind: ClassVar[str] = "lora"

    a: Float[Tensor, "rank input"]
    b: Float[Tensor, "output rank_of_b"]
    scale: float = 1.0

    def __post_init__(self) -> None:
        """Check that A and B share their rank."""
        if self.a.shape[0] != self.b.shape[1]:
            raise IncompatibleExpert(
                f"A has rank {self.a.shape[0]} and B has rank {self.b.shape[1]}; the two must agree."
            )

    @property
    def rank(self) -> int:
        """The rank of the change."""
        return self.a.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(inputs, outputs) of the layer it changes."""
        return self.a.shape[1], self.b.shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {"a": self.a, "b": self.b}

    def delta(self) -> Float[Tensor, "output input"]:
        """Return the change of the weight matrix, scale * B A."""
        return self.scale * (self.b @ self.a)


@dataclass(frozen=True, eq=False)
class Ia3Weights:
    """One rescaling of a linear layer: y = l * (W x + bias), or y = W (l * x) + bias  [IA3, liu2022ia3].

    factors: l; as many as the layer has outputs or inputs. side: which of the two is rescaled.
    Several at once multiply by 1 + sum_e w_e (l_e - 1).
    """

    kind: ClassVar[str] = "ia3"

    factors: Float[Tensor, " size"]
    side: Literal["input", "output"] = "output"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {"factors": self.factors}


@dataclass(frozen=True, eq=False)
class BottleneckWeights:
    """A small network beside a feed-forward block: y = f(x) + scale * (U relu(D x + d) + u)  [he2022unified]."""

    kind: ClassVar[str] = "bottleneck"

    down: Float[Tensor, "rank hidden"]
    down_bias: Float[Tensor, " rank"]
    up: Float[Tensor, "hidden rank"]
    up_bias: Float[Tensor, " hidden"]
    scale: float = 1.0

    @property
    def rank(self) -> int:
        """The width of the small network."""
        return self.down.shape[0]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {"down": self.down, "down_bias": self.down_bias, "up": self.up, "up_bias": self.up_bias}


@dataclass(frozen=True, eq=False)
class FfnWeights:
    """A full copy of a feed-forward block in its place: y = f(x) + sum_e w_e (f_e(x) - f(x))  [DEMix].

    tensors: the block's parameters by their names inside it.
    """

    kind: ClassVar[str] = "ffn"

    tensors: Mapping[str, Tensor]


@dataclass(frozen=True, eq=False)
class PrefixWeights:
    """Keys and values that every query of an attention layer sees before the text's own  [li2021prefix].

    They carry no position. An expert's weight w enters as log w added to its scores: weight 0 is absence.
    """

    kind: ClassVar[str] = "prefix"

    keys: Float[Tensor, "head prefix size"]
    values: Float[Tensor, "head prefix size"]

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {"keys": self.keys, "values": self.values}


Part = LoraWeights | Ia3Weights | BottleneckWeights | FfnWeights | PrefixWeights
"""The weights of an expert at one place."""

KINDS: dict[str, type[Part]] = {
    part.kind: part for part in (LoraWeights, Ia3Weights, BottleneckWeights, FfnWeights, PrefixWeights)
}
"""The kinds of adapter experts."""

Adapter = Mapping[str, Part]
"""Module path inside the base -> what changes there: a linear layer, a feed-forward block or an attention layer."""


@dataclass(frozen=True, eq=False)
class HeadWeights:
    """A linear layer over a text's pooled hidden state h: W h + bias; a reward model's has one output.

    module: what transformers calls it in this architecture, `score` or `classifier`.
    """

    weight: Float[Tensor, "label hidden"]
    bias: Float[Tensor, " label"] | None = None
    module: str = "score"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Its weights by name."""
        return {"weight": self.weight} if self.bias is None else {"weight": self.weight, "bias": self.bias}

    def __call__(self, pooled: Float[Tensor, "row hidden"]) -> Float[Tensor, "row label"]:
        """Return the head's outputs, in float32."""
        bias = None if self.bias is None else self.bias.float()
        return nn.functional.linear(pooled.float(), self.weight.float(), bias)


def lora_parts(adapter: Adapter) -> dict[str, LoraWeights]:
    """Return the low-rank parts of an adapter by module path."""
    return {path: part for path, part in adapter.items() if isinstance(part, LoraWeights)}
