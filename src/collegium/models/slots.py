"""Slots: where attached experts change the base while it runs, without the base's weights or names being touched.

A forward hook on each adapted linear layer adds ((x A^T) * weights) B^T to its output; a hook before each block from
the first adapted one on repeats the texts for the plan's groups. Weights that do not require gradients are taken as
fixed: their stacked copies in the base's dtype are kept from one run to the next. What is being run lies in
`Slots.run`, which the hooks share and which is None outside of `Slots.running`; one base therefore serves one thread
at a time.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from collegium.core.errors import IncompatibleExpert, NameTaken, RoutingError, UnknownName
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.models.parts import Adapter, LoraWeights, lora_parts
from collegium.models.rows import RowPlan

_STACKED_PLANS = 8
"""How many plans keep their stacked weights; each costs the memory of its experts once more."""

Columns = tuple[tuple[tuple[int, int], ...], ...]
"""For each group of a stack: (adapter's place in the group, its rank) in the order of the stacked columns."""


@dataclass(frozen=True, eq=False)
class Stack:
    """One layer's adapters, of all groups between the first and the last that has any, as one pair of products.

    Ranks are padded with zeros; scales are folded into b.
    """

    a: Float[Tensor, "group input rank"]
    b: Float[Tensor, "group rank output"]
    columns: Columns
    first_group: int


@dataclass(eq=False)
class Run:
    """What is being run: the plan, how many texts, and from which block on there is a row per group and text."""

    plan: RowPlan
    texts: int
    first: int
    stacks: Mapping[str, Stack]
    repeated: dict[int, tuple[Tensor, Tensor]] = field(default_factory=dict)
    column_weights: dict[tuple[int, Columns], Tensor | None] = field(default_factory=dict)

    @property
    def groups(self) -> int:
        """How many rows a text has above the trunk."""
        return len(self.plan.groups)

    def repeat(self, value: Any) -> Any:  # noqa: ANN401 - whatever a block is called with
        """Return a block's argument with every tensor of the batch's size repeated for the groups."""
        if isinstance(value, Tensor):
            return self._repeat_tensor(value) if value.ndim > 1 and value.shape[0] == self.texts else value
        if type(value) in {tuple, list}:
            return type(value)(self.repeat(part) for part in value)
        if type(value) is dict:
            return {key: self.repeat(part) for key, part in value.items()}
        return value

    def _repeat_tensor(self, value: Tensor) -> Tensor:
        known = self.repeated.get(id(value))
        if known is None:  # the original is kept too, so that its id stays its own
            known = self.repeated[id(value)] = (value, value.repeat(self.groups, *(1 for _ in value.shape[1:])))
        return known[1]

    def widen(self, rows: Float[Tensor, "some seq hidden"]) -> Float[Tensor, "row seq hidden"]:
        """Return one row per group and text, also where no block had to be run more than once."""
        return rows.repeat(self.groups, 1, 1) if self.groups > 1 and rows.shape[0] == self.texts else rows

    def change(self, stack: Stack, inputs: Tensor, output: Tensor) -> Tensor:
        """Return the layer's output with the stack's products added, in place."""
        groups, width, count = self.groups, output.shape[-1], stack.a.shape[0]
        seq = inputs.numel() // (inputs.shape[-1] * groups * self.texts)
        if groups == 1:
            flat, summed = inputs.reshape(-1, inputs.shape[-1]), output.view(-1, width)
            thin = self._weighted(stack, (flat @ stack.a[0])[None], seq)[0]
            summed.addmm_(thin, stack.b[0])
            return output
        last = stack.first_group + count
        chosen = inputs.reshape(groups, -1, inputs.shape[-1])[stack.first_group : last]
        summed = output.view(groups, -1, width)[stack.first_group : last]
        summed.baddbmm_(self._weighted(stack, chosen @ stack.a, seq), stack.b)
        return output

    def _weighted(self, stack: Stack, thin: Tensor, seq: int) -> Tensor:
        key = (stack.first_group, stack.columns)
        if key not in self.column_weights:
            self.column_weights[key] = self._spread(stack, thin)
        weights = self.column_weights[key]
        if weights is None:
            return thin
        split = thin.view(thin.shape[0], self.texts, seq, thin.shape[-1])
        return (split * weights).view(thin.shape)

    def _spread(self, stack: Stack, thin: Tensor) -> Tensor | None:
        """Return each group's blend weights with a column per stacked rank, None where all are one."""
        groups = self.plan.groups[stack.first_group : stack.first_group + len(stack.columns)]
        if all(group.weights is None for group in groups):
            return None
        rank, parts = thin.shape[-1], []
        for group, columns in zip(groups, stack.columns, strict=True):
            places = [place for place, ranks in columns for _ in range(ranks)]
            places += [0] * (rank - len(places))
            if group.weights is None:
                parts.append(thin.new_ones(1, 1, rank))
            else:
                parts.append(group.weights.to(thin.device, thin.dtype)[..., places])
        shape = [max(part.shape[axis] for part in parts) for axis in (0, 1)]
        return torch.stack([part.expand(*shape, rank) for part in parts])


class Slots:
    """The attached experts of one base, and the hooks through which they speak."""

    def __init__(
        self, model: nn.Module, blocks: nn.ModuleList, sites: Mapping[str, tuple[int, tuple[int, int]]]
    ) -> None:
        """Start without experts and without hooks."""
        self.run: Run | None = None
        self.adapters: dict[str, Adapter] = {}
        self._model, self._blocks, self._sites = model, blocks, sites
        self._handles: dict[str, Any] = {}
        self._stacked: OrderedDict[tuple[tuple[str, ...], ...], dict[str, Stack]] = OrderedDict()

    def attach(self, name: str, adapter: Adapter) -> None:
        """Make an expert speakable under a name; raises NameTaken, or IncompatibleExpert when it does not fit."""
        if name == BASE:
            raise NameTaken("`base` is the base model's own name; give the expert another.")
        if name in self.adapters:
            if self.adapters[name] is adapter:
                return
            raise NameTaken(f"another expert is attached as {name!r}; detach it first or use another name.")
        for path, weights in lora_parts(adapter).items():
            self._check_site(name, path, weights)
        self.adapters[name] = adapter
        self._hook(adapter)

    def detach(self, name: str) -> None:
        """Forget an expert; the last one takes the hooks along."""
        self.require((name,))
        del self.adapters[name]
        for signature in [key for key in self._stacked if any(name in group for group in key)]:
            del self._stacked[signature]
        used = {path for adapter in self.adapters.values() for path in adapter}
        for key in [key for key in self._handles if not used or (key in self._sites and key not in used)]:
            self._handles.pop(key).remove()

    @property
    def hook_ids(self) -> frozenset[int]:
        """The ids of the hooks in the model."""
        return frozenset(handle.id for handle in self._handles.values())

    def require(self, names: tuple[str, ...]) -> None:
        """Raise UnknownName unless all of these are attached."""
        for name in names:
            if name not in self.adapters:
                raise UnknownName(
                    f"no expert {name!r} is attached to this base. {nearest(name, self.adapters)} Attach it first."
                )

    def first_block(self, plan: RowPlan) -> int:
        """Return the lowest block that an expert of the plan changes; the number of blocks when there is none."""
        paths = {path for names in plan.signature for name in names for path in self.adapters[name]}
        return min((self._sites[path][0] for path in paths), default=len(self._blocks))

    @contextmanager
    def running(self, plan: RowPlan, texts: int, *, dtype: torch.dtype, first: int | None = None) -> Iterator[Run]:
        """Let the hooks follow a plan; `first` keeps an earlier trunk whose caches exist already."""
        for names in plan.signature:
            self.require(names)
        lowest = self.first_block(plan)
        if first is not None and lowest < first and len(plan.groups) > 1:
            raise RoutingError(
                f"the new plan changes block {lowest}, below the trunk of {first} blocks whose caches exist; "
                "open the texts again with this plan."
            )
        first = lowest if first is None else first
        self.run = Run(plan, texts, first, self._stacks(plan, dtype))
        try:
            yield self.run
        finally:
            self.run = None

    def _check_site(self, name: str, path: str, weights: LoraWeights) -> None:
        if path not in self._sites:
            raise IncompatibleExpert(
                f"expert {name!r} changes {path!r}, which is no linear layer in a block of this base. "
                f"{nearest(path, self._sites)}"
            )
        want, got = self._sites[path][1], (weights.a.shape[1], weights.b.shape[0])
        if want != got:
            raise IncompatibleExpert(
                f"expert {name!r} maps {got[0]} inputs to {got[1]} outputs at {path!r}, this base has "
                f"{want[0]} and {want[1]} there. It was made for another base; train it again on this one."
            )

    def _hook(self, adapter: Adapter) -> None:
        for path in adapter:
            if path not in self._handles:
                site = self._model.get_submodule(path)
                self._handles[path] = site.register_forward_hook(self._site_hook(path))
        for index, block in enumerate(self._blocks):
            if f"block {index}" not in self._handles:
                hook = self._block_hook(index)
                self._handles[f"block {index}"] = block.register_forward_pre_hook(hook, with_kwargs=True)

    def _site_hook(self, path: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def speak(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:  # noqa: ANN401 - torch's hook
            run = self.run
            if run is None or path not in run.stacks:
                return None
            return run.change(run.stacks[path], inputs[0], output)

        return speak

    def _block_hook(self, index: int) -> Callable[[nn.Module, Any, Any], tuple[Any, Any] | None]:
        def widen(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:  # noqa: ANN401 - torch's hook
            run = self.run
            if run is None or run.groups == 1 or index < run.first:
                return None
            return run.repeat(args), run.repeat(kwargs)

        return widen

    def _stacks(self, plan: RowPlan, dtype: torch.dtype) -> dict[str, Stack]:
        known = self._stacked.get(plan.signature)
        if known is not None:
            self._stacked.move_to_end(plan.signature)
            return known
        adapters = {name: self.adapters[name] for names in plan.signature for name in names}
        paths = {path: None for adapter in adapters.values() for path in adapter}
        stacks = {path: self._stack(path, plan, dtype) for path in paths}
        if not any(
            tensor.requires_grad
            for adapter in adapters.values()
            for part in adapter.values()
            for tensor in part.tensors.values()
        ):
            self._stacked[plan.signature] = stacks
            while len(self._stacked) > _STACKED_PLANS:
                self._stacked.popitem(last=False)
        return stacks

    def _stack(self, path: str, plan: RowPlan, dtype: torch.dtype) -> Stack:
        device = next(self._model.get_submodule(path).parameters()).device
        parts = [
            [
                (place, lora_parts(self.adapters[name])[path])
                for place, name in enumerate(names)
                if path in self.adapters[name]
            ]
            for names in plan.signature
        ]
        live = [index for index, part in enumerate(parts) if part]
        parts = parts[live[0] : live[-1] + 1]
        rank = max(sum(weights.rank for _, weights in part) for part in parts)
        inputs, outputs = self._sites[path][1]
        a = [_padded([each.a for _, each in part], (rank, inputs), dtype, device) for part in parts]
        b = [_padded([each.scale * each.b.T for _, each in part], (rank, outputs), dtype, device) for part in parts]
        columns = tuple(tuple((place, each.rank) for place, each in part) for part in parts)
        return Stack(_joined(a).transpose(1, 2), _joined(b), columns, live[0])


def _padded(rows: list[Tensor], shape: tuple[int, int], dtype: torch.dtype, device: torch.device) -> Tensor:
    """Return the rows under each other in one dtype, with zeros below up to the shape."""
    missing = shape[0] - sum(part.shape[0] for part in rows)
    parts = [part.to(device, dtype) for part in rows]
    if missing:
        parts.append(torch.zeros(missing, shape[1], dtype=dtype, device=device))
    return parts[0] if len(parts) == 1 else torch.cat(parts)


def _joined(groups: list[Tensor]) -> Tensor:
    return groups[0][None] if len(groups) == 1 else torch.stack(groups)
