"""The attached experts of one base, and the hooks through which they speak.

A forward hook on each changed module adds what the run's place there says; a hook before each block gives every row
the text it reads. What is being run lies in `Slots.run`, which the hooks share and which is None outside of
`Slots.running`; one base therefore serves one thread at a time.
"""

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from collegium.core.errors import IncompatibleExpert, NameTaken, ResourceError, RoutingError, UnknownName
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.models.parts import Adapter, Ia3Weights, PrefixWeights
from collegium.models.rows import Rows
from collegium.models.sites import Site, check_part, site_module
from collegium.models.slots.families import find_families
from collegium.models.slots.gated import OpenTrace, Trace
from collegium.models.slots.places import Plan, make_plan
from collegium.models.slots.prefix import ATTENTION, stand_in, trained_attention
from collegium.models.slots.residents import Residents, Source, is_trained
from collegium.models.slots.run import Run

_KEPT_PLANS = 8
"""For how many sets of rows the stacked weights are kept; each costs the memory of its experts once more, at most."""


class Slots:
    """The attached experts of one base."""

    def __init__(self, model: nn.Module, blocks: nn.ModuleList, sites: Mapping[str, Site]) -> None:
        """Start without experts and without hooks."""
        self.run: Run | None = None
        self.residents = Residents()
        self._sources: dict[str, Source] = {}
        self._given: dict[str, Adapter] = {}
        self._model: Any = model
        self._blocks, self._sites = blocks, sites
        self._handles: dict[str, Any] = {}
        self._plans: OrderedDict[tuple[Any, ...], Plan] = OrderedDict()
        linear = [path for path, site in sites.items() if site.what == "linear"]
        self._families = find_families(self._model, linear)
        self._attention: str | None = None

    @property
    def names(self) -> tuple[str, ...]:
        """The attached experts."""
        return tuple(self._sources)

    def attach(self, name: str, adapter: Adapter) -> None:
        """Make an expert speakable under a name; raises NameTaken, or IncompatibleExpert when it does not fit."""
        if self._taken(name, adapter):
            return
        self._check(name, adapter)
        self._given[name] = adapter
        self._sources[name] = lambda: adapter

    def offer(self, name: str, source: Source) -> None:
        """Make an expert speakable whose weights are read on first use, and again after they had to leave."""
        if not self._taken(name, None):
            self._read_from(name, source)

    def reoffer(self, name: str, source: Source) -> None:
        """Read an expert's weights, the same ones, from another source from now on; those attached are never read."""
        self.require((name,))
        if name not in self._given:
            self._read_from(name, source)

    def _read_from(self, name: str, source: Source) -> None:
        def load() -> Adapter:
            adapter = source()
            self._check(name, adapter)
            return adapter

        self._sources[name] = load

    def detach(self, name: str) -> None:
        """Forget an expert; the last one takes the hooks along."""
        self.require((name,))
        del self._sources[name]
        self._given.pop(name, None)
        self._let_go(name)

    def adapter(self, name: str) -> Adapter:
        """Return an attached expert's adapter, read if need be."""
        self.require((name,))
        if name in self._given:
            return self._given[name]
        self._bring_in((name,))
        return self.residents.adapter(name)

    def adapters(self, names: tuple[str, ...]) -> dict[str, Adapter]:
        """Return the adapters of experts that are to run together; raises ResourceError where they cannot."""
        self.require(names)
        self._bring_in(names)
        return {name: self.residents.adapter(name) for name in names}

    @property
    def hook_ids(self) -> frozenset[int]:
        """The ids of the hooks in the model."""
        return frozenset(handle.id for handle in self._handles.values())

    def require(self, names: tuple[str, ...]) -> None:
        """Raise UnknownName unless all of these are attached."""
        for name in names:
            if name not in self._sources:
                raise UnknownName(
                    f"no expert {name!r} is attached to this base. {nearest(name, self._sources)} Attach it first."
                )

    @contextmanager
    def running(
        self,
        rows: Rows,
        *,
        dtype: torch.dtype,
        first: int | None = None,
        trace: Trace | OpenTrace | None = None,
        read: Tensor | None = None,
    ) -> Iterator[Run]:
        """Let the hooks follow rows; `first` keeps an earlier trunk whose caches exist already."""
        self.require(rows.names)
        self._bring_in(rows.names)
        plan = self._plan(rows, dtype)
        apart = rows.groups != 1
        if first is not None and plan.first < first and apart:
            raise RoutingError(
                f"the new plan changes block {plan.first}, below the trunk of {first} blocks whose caches exist; "
                "open the texts again with this plan."
            )
        self.run = Run(rows, plan.first if first is None else first, plan.places, plan.shared, plan.gated, trace, read)
        try:
            with trained_attention(self._model, dtype):
                yield self.run
        finally:
            self.run = None

    def _taken(self, name: str, adapter: Adapter | None) -> bool:
        if name == BASE:
            raise NameTaken("`base` is the base model's own name; give the expert another.")
        if name not in self._sources:
            return False
        if adapter is not None and self._given.get(name) is adapter:
            return True
        raise NameTaken(f"another expert is attached as {name!r}; detach it first or use another name.")

    def _check(self, name: str, adapter: Adapter) -> None:
        for path, part in adapter.items():
            if path not in self._sites:
                raise IncompatibleExpert(
                    f"expert {name!r} changes {path!r}, which is no place for experts in a block of this base. "
                    f"{nearest(path, self._sites)}"
                )
            check_part(part, self._sites[path], where=f"expert {name!r} at {path!r}")

    def _bring_in(self, names: tuple[str, ...]) -> None:
        keep = dict.fromkeys(names)
        new = self.residents.touch(keep)
        for name in new:
            adapter = self.residents.load(name, self._sources[name])
            try:
                self._make_room(keep)
            except ResourceError:
                self.residents.forget(name)
                raise
            self._hook(adapter)
        if not new:
            self._make_room(keep)

    def _make_room(self, keep: Collection[str]) -> None:
        for gone in self.residents.make_room(keep):
            self._forget_plans(gone)

    def _let_go(self, name: str) -> None:
        self.residents.forget(name)
        self._forget_plans(name)
        used = {path for path, experts in self.residents.places.items() if experts}
        for key in list(self._handles):
            if not used or (not key.startswith("block ") and key.removesuffix(" input") not in used):
                self._handles.pop(key).remove()
        if self._attention is not None and not any(self._sites[path].what == "attention" for path in used):
            self._model.set_attn_implementation(self._attention)
            self._attention = None

    def _forget_plans(self, name: str) -> None:
        for key in [key for key, plan in self._plans.items() if name in plan.names]:
            del self._plans[key]

    def _hook(self, adapter: Adapter) -> None:
        for path, part in adapter.items():
            if isinstance(part, PrefixWeights):
                self._stand_in(path)
                continue
            if path not in self._handles:
                self._handles[path] = self._speaking(path)
            if isinstance(part, Ia3Weights) and part.side == "input" and f"{path} input" not in self._handles:
                module = self._model.get_submodule(path)
                self._handles[f"{path} input"] = module.register_forward_pre_hook(self._input_hook(path))
        for index, block in enumerate(self._blocks):
            if f"block {index}" not in self._handles:
                hook = self._block_hook(index)
                self._handles[f"block {index}"] = block.register_forward_pre_hook(hook, with_kwargs=True)

    def _speaking(self, path: str) -> Any:  # noqa: ANN401 - torch's handle
        module = self._model.get_submodule(path)
        if self._sites[path].what == "feed_forward":
            return module.register_forward_hook(self._feed_forward_hook(path), with_kwargs=True)
        return module.register_forward_hook(self._linear_hook(path))

    def _stand_in(self, path: str) -> None:
        stand_in(self._model.get_submodule(path), path, self)
        if self._attention is None:
            self._attention = self._model.config._attn_implementation
            self._model.set_attn_implementation(ATTENTION)

    def _linear_hook(self, path: str) -> Callable[[nn.Module, Any, Any], Tensor | None]:
        def speak(module: nn.Module, inputs: Any, output: Any) -> Tensor | None:  # noqa: ANN401 - torch's hook
            return None if self.run is None else self.run.linear(path, inputs[0], output)

        return speak

    def _input_hook(self, path: str) -> Callable[[nn.Module, Any], Tensor | None]:
        def speak(module: nn.Module, inputs: Any) -> Tensor | None:  # noqa: ANN401 - torch's hook
            return None if self.run is None else self.run.rescaled_input(path, inputs[0])

        return speak

    def _feed_forward_hook(self, path: str) -> Callable[[nn.Module, Any, Any, Any], Any]:
        site = self._sites[path]
        block = site_module(self._model, path, site)
        place = 0 if site.first is None else 1  # a second half is told what the first has read

        def speak(module: nn.Module, args: Any, kwargs: Any, output: Any) -> Any:  # noqa: ANN401 - torch's hook
            run, self.run = self.run, None  # an exchanged block is run without experts inside
            inputs = args[place] if args else kwargs["hidden_states"]
            try:
                return None if run is None else run.block(path, block, inputs, output)
            finally:
                self.run = run

        return speak

    def _block_hook(self, index: int) -> Callable[[nn.Module, Any, Any], tuple[Any, Any] | None]:
        def widen(module: nn.Module, args: Any, kwargs: Any) -> tuple[Any, Any] | None:  # noqa: ANN401 - torch's hook
            run = self.run
            return None if run is None or not run.apart or index < run.first else run.enter(index, args, kwargs)

        return widen

    def _plan(self, rows: Rows, dtype: torch.dtype) -> Plan:
        """Return what each place computes for these rows; the last few are kept unless weights are being trained."""
        key = (rows.names, rows.places, dtype, None if rows.gates is None else id(rows.gates), rows.merged)
        known = self._plans.get(key)
        if known is not None:
            self._plans.move_to_end(key)
            return known
        trained = is_trained(part for name in rows.names for part in self.residents.adapter(name).values())
        plan = make_plan(
            self._model, rows, self.residents, self._sites, self._families, trained=trained, blocks=len(self._blocks)
        )
        if not trained:
            self._plans[key] = plan
            while len(self._plans) > _KEPT_PLANS:
                self._plans.popitem(last=False)
        return plan
