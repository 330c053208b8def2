"""PEFT: adapter_config.json and adapter_model.safetensors, without the card."""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collegium.experts.export.formats import Served
from collegium.experts.folder import write_payload
from collegium.experts.payloads import Expert
from collegium.experts.peft_folder import WRITE
from collegium.experts.peft_folder import write_peft as write_turned

KINDS = tuple(WRITE)
"""The kinds that PEFT knows."""


def needs_base(experts: Sequence[Expert]) -> bool:
    """Return whether the base itself is needed: PEFT's files of other kinds than LoRA are not the library's own."""
    return any(expert.card.kind != "lora" for expert in experts)


def check_peft(experts: Sequence[Expert], served: Served) -> None:
    """Raise IncompatibleExpert for what PEFT cannot say of an expert, such as prefixes on some layers alone."""
    for expert in experts:
        if expert.card.kind != "lora":
            with tempfile.TemporaryDirectory() as folder:
                _write(expert, served, Path(folder))


def write_peft(experts: Sequence[Expert], served: Served, folder: Path, place: Path) -> dict[str, Any]:
    """Write PEFT's two files: one expert fills the folder itself, of several each gets a folder of its name."""
    homes = {expert.name: Path() if len(experts) == 1 else Path(expert.name) for expert in experts}
    for expert in experts:
        home = folder / homes[expert.name]
        home.mkdir(exist_ok=True)
        _write(expert, served, home)
    return {"adapters": {name: str(place / home) for name, home in homes.items()}}


def _write(expert: Expert, served: Served, folder: Path) -> None:
    if expert.card.kind == "lora":
        write_payload(expert.payload, folder)
    else:
        assert served.base is not None, "opened because needs_base says so"
        write_turned(expert, folder, served.base)
