"""PEFT folders: written for PEFT, and read strictly from elsewhere, marked as unverified, because they name no base."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Literal

from collegium.core.cards import ExpertCard, Kind, content_hash, read_json
from collegium.core.errors import CorruptExpert, IncompatibleExpert, NameTaken
from collegium.core.names import check_name, is_name
from collegium.experts.folder import refuse_pickles
from collegium.experts.ia3_files import read_ia3, write_ia3
from collegium.experts.lora_files import read_lora, write_lora
from collegium.experts.payloads import AdapterPayload, Expert, adapter_payload
from collegium.experts.peft_fields import CONFIG_FILE
from collegium.experts.peft_prefix import read_peft_prefix, write_peft_prefix
from collegium.models import Base, HeadWeights

UNVERIFIED = "base: unverified (a PEFT folder names no base; names and shapes fit)"

READ: Mapping[str, Callable[[Path, Base], AdapterPayload]] = {
    "LORA": lambda folder, base: read_lora(folder, sites=base.sites),
    "IA3": lambda folder, base: read_ia3(folder, sites=base.sites),
    "PREFIX_TUNING": read_peft_prefix,
}
"""`peft_type` -> how such a folder is read."""

WRITE: Mapping[Kind, Callable[[AdapterPayload, Path, Base], None]] = {
    "lora": lambda payload, folder, base: write_lora(adapter_payload(base, payload.adapter, head=payload.head), folder),
    "ia3": lambda payload, folder, base: write_ia3(adapter_payload(base, payload.adapter), folder),
    "prefix": write_peft_prefix,
}
"""Kind -> how it is written for PEFT; the others have no form there."""


def read_peft(folder: Path, base: Base, *, name: str | None = None) -> Expert:
    """Return the expert in a PEFT folder from elsewhere (LoRA, IA3, prefix); names and shapes must match the base.

    The card's base is None: a PEFT folder carries no fingerprint. name: default = the folder's.

    Raises IncompatibleExpert, naming the field, for what Collegium does not compute; CorruptExpert for damage.
    """
    name = check_name(own_name(folder) if name is None else name)
    refuse_pickles(folder)
    config = read_json(folder / CONFIG_FILE)
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in READ:
        raise IncompatibleExpert(
            f"{folder}: peft_type {kind!r} is not supported; Collegium reads adapters of type {', '.join(READ)}."
        )
    read = READ[kind](folder, base)
    payload = adapter_payload(base, read.adapter, head=read.head)
    recipe = {"method": "peft", "adapter_config": config}
    card = ExpertCard(
        name=name,
        kind=payload.kind,
        task=_task(payload.head),
        trained_parameters=payload.parameters,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        warnings=(UNVERIFIED,),
    )
    return Expert(card, payload)


def write_peft(expert: Expert, folder: Path, base: Base) -> None:
    """Write PEFT's two files of an expert into an empty folder: what PEFT computes with them is what the expert says.

    Raises IncompatibleExpert for a kind that PEFT has no form for, or, of prefixes, for a base on which PEFT's are
    another thing; CorruptExpert for a folder that is not empty.

    >>> import tempfile
    >>> from collegium.testing.pico import pico_base, random_expert
    >>> base = pico_base()
    >>> with tempfile.TemporaryDirectory() as place:
    ...     write_peft(random_expert(base, kind="prefix"), Path(place), base)
    ...     sorted(each.name for each in Path(place).iterdir())
    ['adapter_config.json', 'adapter_model.safetensors']
    """
    write = WRITE.get(expert.card.kind)
    if write is None or not isinstance(expert.payload, AdapterPayload):
        raise IncompatibleExpert(
            f"expert {expert.name!r} is of kind {expert.card.kind!r}, for which PEFT has no form; it has for "
            f"{', '.join(WRITE)}."
        )
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CorruptExpert(f"{folder} is not empty; an expert gets a folder of its own.")
    write(expert.payload, folder, base)


def own_name(folder: Path) -> str:
    """Return a folder's name as an expert's; raises NameTaken when it cannot be one."""
    name = folder.resolve().name
    if not is_name(name):
        raise NameTaken(
            f"the folder's name, {name!r}, cannot be an expert's (letters, digits, dots, dashes and underscores); give "
            "it one: name=..., or --as NAME."
        )
    return name


def _task(head: HeadWeights | None) -> Literal["language", "reward", "classification"]:
    """Return what an adapter is for: a head of one output scores, one of several tells apart."""
    if head is None:
        return "language"
    return "reward" if head.weight.shape[0] == 1 else "classification"
