"""PEFT: adapter_config.json and adapter_model.safetensors, without the card."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from collegium.experts.export.formats import Served
from collegium.experts.folder import write_payload
from collegium.experts.payloads import Expert


def check_peft(experts: Sequence[Expert], served: Served) -> None:
    """Raise nothing: what has a kind that PEFT knows can be written."""


def write_peft(experts: Sequence[Expert], served: Served, folder: Path, place: Path) -> dict[str, Any]:
    """Write PEFT's two files: one expert fills the folder itself, of several each gets a folder of its name."""
    homes = {expert.name: Path() if len(experts) == 1 else Path(expert.name) for expert in experts}
    for expert in experts:
        home = folder / homes[expert.name]
        home.mkdir(exist_ok=True)
        write_payload(expert.payload, home)
    return {"adapters": {name: str(place / home) for name, home in homes.items()}}
