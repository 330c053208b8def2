"""PEFT folders from elsewhere: read strictly, and marked as unverified, because they name no base."""

from pathlib import Path

from collegium.core.cards import ExpertCard, content_hash, read_json
from collegium.core.errors import NameTaken
from collegium.core.names import check_name, is_name
from collegium.experts.folder import refuse_pickles
from collegium.experts.lora_files import CONFIG_FILE, read_lora
from collegium.experts.payloads import Expert, adapter_payload
from collegium.models import Base

UNVERIFIED = "base: unverified (a PEFT folder names no base; names and shapes fit)"


def read_peft(folder: Path, base: Base, *, name: str | None = None) -> Expert:
    """Return the expert in a PEFT LoRA folder from elsewhere; names and shapes must match the base.

    The card's base is None: a PEFT folder carries no fingerprint. name: default = the folder's.

    Raises IncompatibleExpert, naming the field, for what Collegium does not compute; CorruptExpert for damage.
    """
    name = check_name(own_name(folder) if name is None else name)
    refuse_pickles(folder)
    payload = adapter_payload(base, read_lora(folder, sites=base.linear_sites()).adapter)
    recipe = {"method": "peft", "adapter_config": read_json(folder / CONFIG_FILE)}
    card = ExpertCard(
        name=name,
        kind="lora",
        trained_parameters=payload.parameters,
        recipe=recipe,
        recipe_hash=content_hash(recipe),
        warnings=(UNVERIFIED,),
    )
    return Expert(card, payload)


def own_name(folder: Path) -> str:
    """Return a folder's name as an expert's; raises NameTaken when it cannot be one."""
    name = folder.resolve().name
    if not is_name(name):
        raise NameTaken(
            f"the folder's name, {name!r}, cannot be an expert's (letters, digits, dots, dashes and underscores); give "
            "it one: name=..., or --as NAME."
        )
    return name
