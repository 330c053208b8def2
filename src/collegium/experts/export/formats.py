"""What an export is: which kinds of experts a program takes, and how their files are written."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.core.errors import IncompatibleExpert
from collegium.experts.payloads import AdapterPayload, Expert
from collegium.models import Base, LoraWeights


@dataclass(frozen=True)
class Served:
    """What another program is told of the base.

    config: its transformers configuration. name, revision: how that program finds it, a folder or a name of the hub.
    base: the base itself, where a form needs it.
    """

    config: Any
    name: str = ""
    revision: str = ""
    base: Base | None = None

    @property
    def kind(self) -> str:
        """The model type of its configuration."""
        return str(self.config.model_type)


@dataclass(frozen=True)
class Format:
    """One form that experts leave in.

    kinds: the kinds of experts it has a form for.
    check: raises IncompatibleExpert, naming it, for what the other program cannot load; nothing is written.
    write: (experts, base, folder to fill, its final place) -> what is to be told.
    heads: whether it keeps the head of an expert for rewards or classification.
    """

    summary: str
    kinds: tuple[str, ...]
    check: Callable[[Sequence[Expert], Served], None]
    write: Callable[[Sequence[Expert], Served, Path, Path], dict[str, Any]]
    heads: bool = False


def check_kinds(experts: Sequence[Expert], kinds: Sequence[str], *, form: str, heads: bool = False) -> None:
    """Raise IncompatibleExpert, naming the expert, when a format has no form for its kind, or none for its head."""
    for expert in experts:
        if not heads and expert.card.task != "language":
            raise IncompatibleExpert(
                f"expert {expert.name!r} is for {expert.card.task} and nothing without its head, for which {form} has "
                "no place. Its folder in the library can be copied as it is; --to peft keeps an adapter's head."
            )
        if expert.card.kind not in kinds:
            raise IncompatibleExpert(
                f"expert {expert.name!r} is of kind {expert.card.kind!r}, for which {form} has no form; it takes "
                f"{', '.join(kinds)}. The expert's folder in the library can be copied as it is."
            )


def lora_of(expert: Expert) -> dict[str, LoraWeights]:
    """Return an expert's low-rank parts, none for another kind."""
    return expert.payload.lora if isinstance(expert.payload, AdapterPayload) else {}


def check_modules(expert: Expert, served: Served, modules: Mapping[str, Sequence[str]], *, program: str) -> None:
    """Raise IncompatibleExpert, naming it, for a base or a layer to which a program cannot add a low-rank change.

    modules: model type -> names of the layers as their paths end.
    """
    known = modules.get(served.kind)
    if known is None:
        raise IncompatibleExpert(
            f"{program} adds no low-rank change to a base of type {served.kind!r}, or it is not known to; known are "
            f"{', '.join(sorted(modules))}. Export a merged checkpoint instead (--to merged)."
        )
    odd = sorted({path for path in lora_of(expert) if path.rpartition(".")[2] not in known})
    if odd:
        raise IncompatibleExpert(
            f"expert {expert.name!r} changes {odd[0]!r} and {len(odd) - 1} more layers that {program} cannot change in "
            f"a base of type {served.kind!r}; it changes {', '.join(known)}. Export a merged checkpoint instead "
            "(--to merged)."
        )
