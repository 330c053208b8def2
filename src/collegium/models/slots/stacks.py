"""Stacks: what one place computes for the rows of one run, from the parts of the experts that change it.

y = W x + ((x A^T) * weights) B^T for low-rank parts; rows that are run through the same experts are one product.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from collegium.core.errors import RoutingError
from collegium.models.parts import BottleneckWeights, FfnWeights, Ia3Weights, LoraWeights, Part, PrefixWeights
from collegium.models.rows import Rows
from collegium.models.slots.slabs import thin_matrices

Span = slice | Tensor
"""Rows of a run: neighbours, or any in an order."""


@dataclass(frozen=True, eq=False)
class LowRankStack:
    """The thin products of equally many rows for each of some casts.

    places: for each column the place of its expert among the cast's. span: the rows, cast after cast, `per` of each.
    rank:   how many columns each expert has, None where they differ.
    merged: how many experts of each cast, all of this rank, act as one; 0 = each acts by itself.
    """

    a: Float[Tensor, "cast input column"]
    b: Float[Tensor, "cast column output"]
    bias: Float[Tensor, "cast one column"] | None
    places: Int[Tensor, "cast column"]
    span: Span
    per: int
    rank: int | None = None
    merged: int = 0

    @property
    def casts(self) -> int:
        """How many different casts."""
        return self.a.shape[0]

    def thin(
        self, inputs: Float[Tensor, "row seq input"], a: Float[Tensor, "cast input some"] | None = None
    ) -> Float[Tensor, "cast token some"]:
        """Return the first product of this stack's rows; `a` in place of its own first matrices."""
        a = self.a if a is None else a
        if self.is_of_all(inputs):
            return (inputs.reshape(-1, inputs.shape[-1]) @ a.squeeze(0)).unsqueeze(0)
        x = inputs[self.span].reshape(self.casts, -1, inputs.shape[-1])
        return (x[0] @ a[0])[None] if self.casts == 1 else x @ a

    def is_of_all(self, rows: Float[Tensor, "row seq size"]) -> bool:
        """Return whether one cast is that of all rows; a gradient then passes without a copy of it being made."""
        return self.casts == 1 and isinstance(self.span, slice) and self.span == slice(0, rows.shape[0])

    def add(
        self,
        output: Float[Tensor, "row seq output"],
        thin: Tensor,
        weights: Float[Tensor, "row_or_1 seq_or_1 k"] | None,
    ) -> Tensor:
        """Add the second product to the output, in place, and return it."""
        if self.merged:
            thin = self.averaged(thin, weights)
        else:
            if self.bias is not None:
                thin = torch.relu(thin + self.bias)
            if weights is not None:
                thin = self.weighted(thin, weights)
        if isinstance(self.span, Tensor):
            change = torch.bmm(thin, self.b).view(-1, *output.shape[1:])
            return output.index_add_(0, self.span, change)
        if self.is_of_all(output):
            return add_product(output, thin.squeeze(0), self.b.squeeze(0))
        summed = output[self.span].view(self.casts, -1, output.shape[-1])
        if self.casts == 1:
            summed[0].addmm_(thin[0], self.b[0])
        else:
            summed.baddbmm_(thin, self.b)
        return output

    def weighted(self, thin: Tensor, weights: Tensor) -> Tensor:
        """Return the thin product with each column times the weight of its expert."""
        casts, columns = self.places.shape
        own = self._own(weights)
        if self.rank is not None:
            return (thin.view(casts, self.per, -1, columns // self.rank, self.rank) * own[..., None]).view(thin.shape)
        places = self.places[:, None, None].expand(-1, own.shape[1], own.shape[2], -1)
        spread = own.gather(-1, places)
        return (thin.view(casts, self.per, -1, columns) * spread).view(thin.shape)

    def averaged(self, thin: Tensor, weights: Tensor | None) -> Tensor:
        """Return what one expert of the weighted sum of parameters hands to its second product, for each expert's.

        With m = relu(sum_j w_j (A_j x + d_j)), or sum_j w_j A_j x of low-rank parts, expert i's columns get w_i m, so
        that the second product says (sum_i w_i B_i) m. The last column of a bottleneck is that of its second bias.
        """
        casts, columns = self.places.shape
        assert self.rank is not None
        each = thin.view(casts, self.per, -1, self.merged, self.rank)
        if weights is None:
            own = thin.new_ones(casts, 1, 1, self.merged, 1)
        else:
            own = self._own(weights)[..., : self.merged, None]
        if self.bias is not None:
            each = each + self.bias.view(casts, 1, 1, self.merged, self.rank)
        middle = (each * own).sum(-2, keepdim=True)
        if self.bias is not None:
            middle = torch.nn.functional.pad(torch.relu(middle[..., :-1]), (0, 1), value=1.0)
        return (middle * own).view(casts, -1, columns)

    def _own(self, weights: Tensor) -> Float[Tensor, "cast per_or_1 seq_or_1 k"]:
        """Return the weights of this stack's rows, cast by cast."""
        if weights.shape[0] == 1:
            return weights[None].expand(self.casts, -1, -1, -1)
        return weights[self.span].view(self.casts, self.per, *weights.shape[1:])


class _AddProduct(torch.autograd.Function):
    """y += t B, in place. Autograd's own in-place product on a view of y copies the whole slope of y."""

    @staticmethod
    def forward(ctx: Any, output: Tensor, thin: Tensor, b: Tensor) -> Tensor:  # noqa: ANN401 - torch's context
        output.view(-1, output.shape[-1]).addmm_(thin, b)
        ctx.mark_dirty(output)
        ctx.save_for_backward(thin, b)
        return output

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grad_outputs: Any) -> Any:  # noqa: ANN401  # pyright: ignore[reportIncompatibleMethodOverride]
        thin, b = ctx.saved_tensors
        slope = grad_outputs[0].reshape(-1, b.shape[1])
        wanted = ctx.needs_input_grad
        return (
            grad_outputs[0] if wanted[0] else None,
            slope @ b.T if wanted[1] else None,
            thin.T @ slope if wanted[2] else None,
        )


def add_product(
    output: Float[Tensor, "row seq output"], thin: Float[Tensor, "token column"], b: Float[Tensor, "column output"]
) -> Float[Tensor, "row seq output"]:
    """Return the output with a product added in place, for every token in turn, with gradient where asked for.

    >>> add_product(torch.zeros(1, 2, 1), torch.tensor([[1.0], [2.0]]), torch.tensor([[3.0]])).flatten()
    tensor([3., 6.])
    """
    if torch.is_grad_enabled() and (output.requires_grad or thin.requires_grad or b.requires_grad):
        return _AddProduct.apply(output, thin, b)  # pyright: ignore[reportReturnType]
    output.view(-1, output.shape[-1]).addmm_(thin, b)
    return output


@dataclass(frozen=True, eq=False)
class RescaleStack:
    """The factors of each row: the layer's input or output is multiplied by 1 + sum_e w_e (l_e - 1)."""

    changes: Float[Tensor, "row k size"]
    inputs: bool

    def factors(self, weights: Float[Tensor, "row_or_1 seq_or_1 k"] | None) -> Float[Tensor, "row seq_or_1 size"]:
        """Return what each row is multiplied by."""
        if weights is None:
            return 1 + self.changes.sum(1, keepdim=True)
        return 1 + weights.to(self.changes) @ self.changes


@dataclass(frozen=True, eq=False)
class ExchangeStack:
    """Feed-forward blocks that rows are run through instead: (the block's weights, rows, place in the index) each."""

    blocks: tuple[tuple[Mapping[str, Tensor], Int[Tensor, " _"], int], ...]


@dataclass(frozen=True, eq=False)
class PrefixStack:
    """The keys and values that each row's queries see first; `open` is 0, or minus infinity where there is none.

    merged: how many prefixes of each row, from the first, are one whose keys and values are their weighted sum.
    """

    keys: Float[Tensor, "row head prefix size"]
    values: Float[Tensor, "row head prefix size"]
    open: Float[Tensor, "row prefix"]
    places: Int[Tensor, " prefix"]
    merged: int = 0

    def seen(self, weights: Float[Tensor, "row_or_1 seq_of_weights k"] | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return keys, values and what is added to their scores.

        Raises RoutingError for weights by position where prefixes are merged.
        """
        if not self.merged:
            return self.keys, self.values, self.scores(weights)
        return merged_prefix(self, weights)

    def scores(
        self, weights: Float[Tensor, "row_or_1 seq_of_weights k"] | None
    ) -> Float[Tensor, "row one seq_of_weights prefix"]:
        """Return what is added to each prefix column's score: the logarithm of its expert's weight."""
        return _prefix_scores(self.open, self.places, weights)


@dataclass(frozen=True, eq=False)
class Place:
    """Everything that happens at one module for the rows of a run."""

    block: int
    low_rank: tuple[LowRankStack, ...] = ()
    rescale: tuple[RescaleStack, ...] = ()
    exchange: ExchangeStack | None = None
    prefix: PrefixStack | None = None


def _prefix_scores(shown: Tensor, places: Tensor, weights: Tensor | None) -> Tensor:
    if weights is None:
        return shown[:, None, None]
    return (shown[:, None] + weights.to(shown).clamp(min=0).log()[..., places])[:, None]


def merged_prefix(
    stack: PrefixStack, weights: Float[Tensor, "row_or_1 seq_of_weights k"] | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Return keys, values and added scores where the first prefixes are one, at weight 1; worn ones come behind it."""
    if weights is not None and weights.shape[-2] > 1:
        raise RoutingError(
            f"a prefix is one for all positions that see it, got weights of {weights.shape[-2]} positions to merge "
            "prefixes with. Hold one weight per text, or mix them."
        )
    rows, heads, columns, size = stack.keys.shape
    many = weights.shape[-1] if weights is not None else int(stack.places[-1]) + 1
    length = columns // many
    ends = stack.merged * length
    own = stack.keys.new_ones(1, stack.merged) if weights is None else weights[:, 0, : stack.merged].to(stack.keys)

    def averaged(each: Tensor) -> Tensor:
        first = each[:, :, :ends].view(rows, heads, stack.merged, length, size)
        return torch.cat([(first * own[:, None, :, None, None]).sum(2), each[:, :, ends:]], dim=2)

    shown = stack.open[:, :ends].view(rows, stack.merged, length).amax(1)
    rest = _prefix_scores(stack.open[:, ends:], stack.places[ends:], weights)
    scores = torch.cat([shown[:, None, None].expand(-1, 1, rest.shape[2], -1), rest.expand(rows, -1, -1, -1)], dim=-1)
    return averaged(stack.keys), averaged(stack.values), scores


def span_of(rows: Sequence[int], device: torch.device) -> Span:
    """Return rows as a slice where they are neighbours."""
    if list(rows) == list(range(rows[0], rows[0] + len(rows))):
        return slice(rows[0], rows[0] + len(rows))
    return torch.tensor(rows, device=device)


def trained_stack(
    parts: Sequence[Sequence[LoraWeights | BottleneckWeights | None]], like: Tensor
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return a, b and bias of casts' parts through which gradients flow; see `Slab.take`."""
    made = [[None if part is None else thin_matrices(part) for part in cast] for cast in parts]
    first = next(each for cast in made for each in cast if each is not None)
    columns = max(sum(each[0].shape[0] for each in cast if each is not None) for cast in made)
    a, b, bias = [], [], []
    for cast in made:
        live = [each for each in cast if each is not None]
        a.append(_padded([each[0] for each in live], columns, first[0].shape[1], like))
        b.append(_padded([each[1] for each in live], columns, first[1].shape[1], like))
        each_bias = [each[0].new_zeros(each[0].shape[0]) if each[2] is None else each[2] for each in live]
        bias.append(_padded([each[:, None] for each in each_bias], columns, 1, like)[:, 0])
    rectified = any(each is not None and each[2] is not None for cast in made for each in cast)
    a, b, bias = (each[0][None] if len(each) == 1 else torch.stack(each) for each in (a, b, bias))
    return a.transpose(1, 2), b, bias[:, None] if rectified else None


def _padded(rows: Sequence[Tensor], count: int, width: int, like: Tensor) -> Tensor:
    parts = [part.to(like) for part in rows]
    missing = count - sum(part.shape[0] for part in parts)
    if len(parts) == 1 and not missing:
        return parts[0]
    return torch.cat([*parts, like.new_zeros(missing, width)] if missing else parts)


def rescale_stacks(parts: Mapping[str, Part], rows: Rows, like: Tensor) -> tuple[RescaleStack, ...]:
    """Return the rescaling of a layer's input and of its output, of those experts that do either."""
    found = []
    for side in ("input", "output"):
        own = {name: part for name, part in parts.items() if isinstance(part, Ia3Weights) and part.side == side}
        if own:
            size = next(iter(own.values())).factors.shape[0]
            table = [own[name].factors.to(like) - 1 if name in own else like.new_zeros(size) for name in rows.names]
            table.append(like.new_zeros(size))
            found.append(RescaleStack(torch.stack(table)[rows.index.to(like.device)], side == "input"))
    return tuple(found)


def exchange_stack(parts: Mapping[str, Part], rows: Rows, like: Tensor) -> ExchangeStack | None:
    """Return the blocks that rows are run through instead of the base's."""
    blocks = []
    for place in range(rows.index.shape[1]):
        for number, name in enumerate(rows.names):
            part = parts.get(name)
            here = (rows.index[:, place] == number).nonzero().flatten()
            if isinstance(part, FfnWeights) and len(here):
                tensors = {key: tensor.to(like) for key, tensor in part.tensors.items()}
                blocks.append((tensors, here.to(like.device), place))
    return ExchangeStack(tuple(blocks)) if blocks else None


def prefix_stack(parts: Mapping[str, Part], rows: Rows, like: Tensor) -> PrefixStack | None:
    """Return the prefixes of all rows, padded to the longest."""
    own = {name: part for name, part in parts.items() if isinstance(part, PrefixWeights)}
    if not own:
        return None
    first = next(iter(own.values()))
    heads, _, size = first.keys.shape
    longest, k = max(part.keys.shape[1] for part in own.values()), rows.index.shape[1]
    keys, values, closed = [], [], []
    for name in (*rows.names, ""):
        part = own.get(name)
        length = 0 if part is None else part.keys.shape[1]
        for made, given in ((keys, part and part.keys), (values, part and part.values)):
            empty = like.new_zeros(heads, longest - length, size)
            made.append(empty if given is None else torch.cat([given.to(like), empty], dim=1))
        closed.append(torch.arange(longest, device=like.device) >= length)
    index = rows.index.to(like.device)

    def by_row(table: list[Tensor]) -> Tensor:
        return torch.stack(table)[index].transpose(1, 2).reshape(rows.count, heads, k * longest, size)

    shut = torch.stack(closed)[index].reshape(rows.count, k * longest)
    open_ = like.new_zeros(shut.shape, dtype=torch.float32).masked_fill(shut, float("-inf"))
    places = torch.arange(k, device=like.device).repeat_interleave(longest)
    return PrefixStack(by_row(keys), by_row(values), open_, places, rows.merged)


def shared_input(stacks: Sequence[LowRankStack]) -> tuple[Tensor, list[LowRankStack]]:
    """Return the first matrices of places that read the same input as one, and the stacks as views of it."""
    joint = torch.cat([stack.a.transpose(1, 2) for stack in stacks], dim=1).transpose(1, 2)
    ends = torch.tensor([stack.a.shape[2] for stack in stacks]).cumsum(0).tolist()
    views = [
        replace(stack, a=joint[:, :, end - stack.a.shape[2] : end]) for stack, end in zip(stacks, ends, strict=True)
    ]
    return joint, views
