"""From a change back to an adapter: its factors side by side, or the best ones of a rank, with the error that costs."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.errors import ConfigError
from collegium.experts.algebra.delta import Delta, Layout, Term, entries, total_rank
from collegium.models import Ia3Weights, LoraWeights
from collegium.ops.low_rank import Split, lost_share, split_matrix, split_product

_NOTHING = "the merge comes to no change at all; it would be the base itself. Weigh the experts otherwise."


@dataclass(frozen=True, eq=False)
class Compressed:
    """An adapter made of a change, and what of the change it lost.

    values: module path -> all singular values of the layer's change; empty for IA3, which is kept whole.
    """

    adapter: Mapping[str, LoraWeights | Ia3Weights]
    values: Mapping[str, Float[Tensor, " all_ranks"]]

    @property
    def errors(self) -> dict[str, float]:
        """The relative Frobenius error at each layer."""
        return {path: lost_share(values, self._kept(path)) for path, values in self.values.items()}

    @property
    def error(self) -> float:
        """The relative Frobenius error of all layers together."""
        return self._error({path: self._kept(path) for path in self.values})

    def error_at(self, rank: int) -> float:
        """Return what the error would be with another rank at every layer."""
        return self._error(dict.fromkeys(self.values, rank))

    def _kept(self, path: str) -> int:
        part = self.adapter[path]
        return part.rank if isinstance(part, LoraWeights) else 0

    def _error(self, kept: Mapping[str, int]) -> float:
        squares = {path: values.double().square() for path, values in self.values.items()}
        total = sum(float(each.sum()) for each in squares.values())
        lost = sum(float(each[kept[path] :].sum()) for path, each in squares.items())
        return (lost / total) ** 0.5 if total > 0 else 0.0


def compress(delta: Delta, rank: int | None = None, *, dtype: torch.dtype = torch.float32) -> Compressed:
    """Return a change as an adapter whose layers have at most this rank, and the error.

    Factors: QR of both stacks, SVD of the small core (`split_product`); a matrix without factors (TIES, DARE) is made,
    split and let go of, a layer at a time. A layer whose factors fit keeps them as they are, to the bit.

    rank:  None = the ranks of the parts together, which loses nothing where there are factors. IA3 has none.
    dtype: float64 for errors below 1e-6. The adapter is float32.

    Raises ConfigError for a rank below 1 or above a layer's own, for a change that is zero everywhere, and for one too
    large for float32.

    >>> from collegium.experts.algebra.delta import delta_of_adapter
    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> law, code = (delta_of_adapter(random_adapter(pico_base(), seed, rank=4)) for seed in (0, 1))
    >>> small = compress(0.6 * law + 0.4 * code, 4)
    >>> 0.1 < small.error < 0.9, compress(law + code, 8).error
    (True, 0.0)
    """
    _check_rank(delta, rank)
    adapter: dict[str, LoraWeights | Ia3Weights] = {}
    values: dict[str, Tensor] = {}
    for path, terms in delta.layers.items():
        layout = delta.layout(path)
        if layout.side:
            adapter[path] = _rescaling(terms, layout, dtype)
        else:
            try:
                adapter[path], values[path] = _low_rank(terms, layout, rank, dtype)
            except torch.linalg.LinAlgError as error:  # pyright: ignore[reportPrivateImportUsage]
                raise _too_large(path) from error
        kept = (*adapter[path].tensors.values(), *(values[each] for each in (path,) if each in values))
        if not all(bool(each.float().isfinite().all()) for each in kept):
            raise _too_large(path)
    if values and not any(bool(each.any()) for each in values.values()):
        raise ConfigError(_NOTHING)
    return Compressed(adapter, values)


def _check_rank(delta: Delta, rank: int | None) -> None:
    if not delta.layers:
        raise ConfigError(_NOTHING)
    if rank is None:
        return
    if delta.kind == "ia3":
        raise ConfigError(f"IA3 experts are merged whole and have no rank, got {rank}; leave it out.")
    small = min(delta.layers, key=lambda path: min(delta.layout(path).shape))
    limit = min(delta.layout(small).shape)
    if not 1 <= rank <= limit:
        raise ConfigError(f"a rank is 1 to {limit}, the size of {small}, got {rank}.")


def _too_large(path: str) -> ConfigError:
    largest = torch.finfo(torch.float32).max
    return ConfigError(f"an expert's numbers are at most {largest:.2g}, the merge's at {path} are larger: weigh less.")


def _rescaling(terms: tuple[Term, ...], layout: Layout, dtype: torch.dtype) -> Ia3Weights:
    """Return the factors 1 + sum_e w_e (l_e - 1); one of weight one is itself, to the bit."""
    if len(terms) == 1 and terms[0].weight == 1 and isinstance(terms[0].part, Ia3Weights):
        return terms[0].part
    return Ia3Weights((1 + entries(terms, layout, dtype)).float(), "input" if layout.side == "input" else "output")


def _low_rank(
    terms: tuple[Term, ...], layout: Layout, rank: int | None, dtype: torch.dtype
) -> tuple[LoraWeights, Tensor]:
    """Return a layer's factors and all singular values of its change."""
    wanted = min(total_rank(terms) if rank is None else rank, *layout.shape)
    factors = _factors(terms, dtype)
    if factors is None:
        split = split_matrix(entries(terms, layout, dtype), wanted)
    else:
        split = split_product(*factors, wanted)
        if total_rank(terms) <= wanted:
            return _joined(terms, factors), split.values
    return _weights(split), split.values


def _weights(split: Split) -> LoraWeights:
    return LoraWeights(split.a.float().contiguous(), split.b.float().contiguous())


def _factors(terms: tuple[Term, ...], dtype: torch.dtype) -> tuple[Tensor, Tensor] | None:
    """Return the stacked factors B and A of a sum, the weights in B; None where a part has none."""
    a, b = [], []
    for term in terms:
        if not isinstance(term.part, LoraWeights):
            return None
        a.append(term.part.a.detach().to(dtype))
        b.append((term.weight * term.part.scale) * term.part.b.detach().to(dtype))
    return torch.cat(b, dim=1), torch.cat(a)


def _joined(terms: tuple[Term, ...], factors: tuple[Tensor, Tensor]) -> LoraWeights:
    """Return a sum's stacked factors; a lone part keeps its own, with the weight in its scale."""
    part = terms[0].part
    if len(terms) == 1 and isinstance(part, LoraWeights):
        return LoraWeights(part.a, part.b, terms[0].weight * part.scale)
    return LoraWeights(factors[1].float(), factors[0].float())
