"""What an expert is: a card and a payload, which is a change of a base, several with gates, or a whole small model."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor

from collegium.core.cards import ExpertCard, Kind, content_hash
from collegium.core.errors import IncompatibleExpert
from collegium.models import Adapter, Base, BottleneckWeights, HeadWeights, LoraWeights, TaskGate, lora_parts

TASKS, ROUTER = "tasks", "router"
"""Where the tensors of a mixture of task adapters that belong to no place are kept."""


@dataclass(frozen=True, eq=False)
class AdapterPayload:
    """A small change of a base: module path -> what changes there; every part is of one kind.

    fan_in_fan_out: whether these layers are GPT-2's `Conv1D`, which keeps its matrix the other way round; PEFT wants
    it said in its file. `adapter_payload(base, adapter)` finds out.
    head: what reads a text's pooled hidden state, of a reward model or a classifier; a language expert has none.
    """

    adapter: Adapter
    fan_in_fan_out: bool = False
    head: HeadWeights | None = None

    def __post_init__(self) -> None:
        """Check that the parts are of one kind."""
        kinds = sorted({part.kind for part in self.adapter.values()})
        if len(kinds) > 1:
            raise IncompatibleExpert(f"an expert is of one kind, these parts are of {kinds}.")

    @property
    def kind(self) -> Kind:
        """The kind of its parts; one without any counts as `lora`."""
        return cast("Kind", next((part.kind for part in self.adapter.values()), "lora"))

    @property
    def lora(self) -> dict[str, LoraWeights]:
        """Its low-rank parts by module path: all of them, or none."""
        return lora_parts(self.adapter)

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        parts = (*self.adapter.values(), *(() if self.head is None else (self.head,)))
        return sum(tensor.numel() for part in parts for tensor in part.tensors.values())


@dataclass(frozen=True, eq=False)
class MtaPayload:
    """Adapters of several tasks beside the same feed-forward blocks, with the gates that weigh them.

    adapters: task -> its adapter, of bottlenecks. gates: a gate at each place, over the adapters in order.
    vectors:  of each task, what gates are told. router: what tells a prompt's task from mean and last of
    its states.

    Raises IncompatibleExpert for parts that do not go together.
    """

    adapters: Mapping[str, Adapter]
    gates: Mapping[str, TaskGate]
    vectors: Float[Tensor, "task size"]
    router: HeadWeights

    def __post_init__(self) -> None:
        """Check that all parts are of as many tasks and of the same places."""
        check_mta(self)

    @property
    def kind(self) -> Kind:
        """Always `mta`."""
        return "mta"

    @property
    def tasks(self) -> tuple[str, ...]:
        """The tasks' names, in the order of gates, vectors and router."""
        return tuple(self.adapters)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Everything it holds by name: `PATH:TASK:NAME` of adapters, `PATH::NAME` of gates, and the tasks' own."""
        found = {
            f"{path}:{task}:{name}": each
            for task, adapter in self.adapters.items()
            for path, part in adapter.items()
            for name, each in part.tensors.items()
        }
        for path, gate in self.gates.items():
            found |= {f"{path}::query": gate.query, f"{path}::keys": gate.keys}
        router = {f"{ROUTER}:{name}": each for name, each in self.router.tensors.items()}
        return {**found, f"{TASKS}:vectors": self.vectors, **router}

    @property
    def parameters(self) -> int:
        """How many numbers it holds."""
        return sum(each.numel() for each in self.tensors.values())


def check_mta(payload: MtaPayload) -> None:
    """Raise IncompatibleExpert when the parts of a mixture of task adapters do not go together."""
    count, size = len(payload.adapters), payload.vectors.shape[1]
    places = {path: part for adapter in payload.adapters.values() for path, part in adapter.items()}
    problems = []
    if count < 2 or payload.vectors.shape[0] != count or payload.router.weight.shape[0] != count:
        problems.append(
            f"{count} adapters, {payload.vectors.shape[0]} vectors and a router of {payload.router.weight.shape[0]}"
        )
    if any(adapter.keys() != payload.gates.keys() for adapter in payload.adapters.values()):
        problems.append("adapters and gates at different places")
    if any(not isinstance(part, BottleneckWeights) for part in places.values()):
        problems.append("adapters that are no bottlenecks")
    else:
        shapes = {(gate.keys.shape, gate.query.shape[1]) for gate in payload.gates.values()}
        read = {part.tensors["down"].shape[1] for part in places.values()}
        hidden = max(read, default=0)
        wanted = {(torch.Size([count, gate.query.shape[0]]), hidden + size) for gate in payload.gates.values()}
        bias = payload.router.bias
        heard = payload.router.weight.shape[1] == 2 * hidden and (bias is None or bias.shape == (count,))
        if shapes != wanted or read != {hidden} or not heard:
            problems.append("gates or a router of other shapes than the adapters and the tasks' vectors")
    if problems:
        raise IncompatibleExpert(f"a mixture of task adapters has an adapter a task and gates over all: {problems}.")


@dataclass(frozen=True, eq=False)
class WholePayload:
    """A whole small language model: the path of a transformers folder, or the transformers model itself in memory."""

    model: Path | Any

    @property
    def kind(self) -> Kind:
        """Always `whole`."""
        return "whole"


Payload = AdapterPayload | MtaPayload | WholePayload
"""What an expert may be made of."""


@dataclass(frozen=True, eq=False)
class Expert:
    """A card and its payload.

    Raises IncompatibleExpert when the card's kind is not the payload's, or when a head is missing or one too many.
    """

    card: ExpertCard
    payload: Payload

    def __post_init__(self) -> None:
        """Check that card and payload are of one kind."""
        kind = self.payload.kind
        if self.card.kind != kind:
            raise IncompatibleExpert(
                f"expert {self.card.name!r}: the card says kind {self.card.kind!r}, the payload is {kind!r}."
            )
        if isinstance(self.payload, AdapterPayload):
            check_head(self.card, self.payload)

    @property
    def name(self) -> str:
        """The name on the card."""
        return self.card.name

    @functools.cached_property
    def digest(self) -> str:
        """The checksum of the payload: what `parents` of later experts remember. Equal payloads have equal digests."""
        return payload_digest(self.card.payload or payload_checksums(self.payload))

    def renamed(self, name: str) -> "Expert":
        """Return the same expert under another name."""
        return Expert(dataclasses.replace(self.card, name=name), self.payload)


def check_head(card: ExpertCard, payload: AdapterPayload) -> None:
    """Raise IncompatibleExpert for a head where there is none, a judge without its head, or a head of another kind."""
    if card.task == "language" and payload.head is not None:
        raise IncompatibleExpert(
            f"expert {card.name!r} has a head ({payload.head.module!r}), which a language expert does not use: it "
            "speaks through its base's output layer. If it is a reward model, its card must say so."
        )
    if payload.head is not None and payload.kind != "lora":
        raise IncompatibleExpert(
            f"expert {card.name!r} is of kind {payload.kind!r}; a head is kept beside a low-rank adapter (lora), or "
            "inside a whole model."
        )
    if card.task != "language" and payload.head is None and payload.kind == "lora":
        raise IncompatibleExpert(
            f"expert {card.name!r} is for {card.task} and has no head: an adapter alone says no number. Save it again "
            "with its head (PEFT: modules_to_save)."
        )


def payload_digest(payload: Mapping[str, str]) -> str:
    """Return the one checksum of a payload's files (name -> sha256), as cards list them."""
    return content_hash(dict(payload))


def payload_checksums(payload: Payload) -> dict[str, str]:
    """Return file name -> sha256 of the files that this payload is written as."""
    import tempfile

    from collegium.experts.folder import write_payload

    with tempfile.TemporaryDirectory() as folder:
        return write_payload(payload, Path(folder))


def adapter_payload(base: Base, adapter: Adapter, *, head: HeadWeights | None = None) -> AdapterPayload:
    """Return the payload of an adapter, and of its head, that were made on this base.

    >>> from collegium.testing.pico import pico_base, random_adapter
    >>> base = pico_base()
    >>> adapter_payload(base, random_adapter(base)).fan_in_fan_out
    False
    """
    kinds = {type(base.model.get_submodule(path)).__name__ for path in adapter if path in base.linear_sites()}
    return AdapterPayload(adapter, fan_in_fan_out=kinds == {"Conv1D"}, head=head)
