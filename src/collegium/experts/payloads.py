"""What an expert is: a card and a payload, which is a small change of a base or a whole small language model."""

import dataclasses
import functools
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from collegium.core.cards import ExpertCard, Kind, content_hash
from collegium.core.errors import IncompatibleExpert
from collegium.models import Adapter, Base, HeadWeights, LoraWeights, lora_parts


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
class WholePayload:
    """A whole small language model: the path of a transformers folder, or the transformers model itself in memory."""

    model: Path | Any

    @property
    def kind(self) -> Kind:
        """Always `whole`."""
        return "whole"


@dataclass(frozen=True, eq=False)
class Expert:
    """A card and its payload.

    Raises IncompatibleExpert when the card's kind is not the payload's, or when a head is missing or one too many.
    """

    card: ExpertCard
    payload: AdapterPayload | WholePayload

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


def payload_checksums(payload: AdapterPayload | WholePayload) -> dict[str, str]:
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
