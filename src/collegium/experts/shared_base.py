"""A base that several processes share: its weights lie once in a file that each process maps into its memory.

Every tensor begins at a multiple of 64 bytes, as torch's own do, so that a mapped base computes what the original
computes, bit for bit. The file is written by the parent and read by its own children; nobody else opens it.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import Fingerprint
from collegium.core.files import disk_errors
from collegium.models import Base
from collegium.models.quiet import quiet_transformers

_ALIGNMENT = 64


@dataclass(frozen=True)
class Place:
    """Where a tensor lies in the file."""

    start_bytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype


@dataclass(frozen=True)
class SharedBase:
    """What another process needs to open the base; small, and sent between parent and child alone."""

    file: Path
    places: Mapping[str, Place]
    total_bytes: int
    model_class: type
    config: Any
    tokenizer: Any
    name: str
    source: str
    fingerprint: Fingerprint
    dtype: torch.dtype
    device: str

    def open(self) -> Base:
        """Return the base; its weights are the file's pages, read when first used and shared by all who map them."""
        storage: Any = torch.UntypedStorage.from_file(str(self.file), False, self.total_bytes)
        state = {name: _tensor_at(storage, place) for name, place in self.places.items()}
        made: Any = self.model_class
        with quiet_transformers():
            model = made.from_pretrained(None, config=self.config, state_dict=state, dtype=self.dtype)
        return Base.from_model(
            model.to(self.device), self.tokenizer, name=self.name, source=self.source, fingerprint=self.fingerprint
        )


def share_base(base: Base, folder: Path) -> SharedBase:
    """Write a base's weights into a folder and return how to open them; raises ResourceError when the disk is full."""
    file, places, written = folder / "weights.bin", {}, {}
    with disk_errors(file), file.open("wb") as out:
        for name, tensor in base.model.state_dict().items():
            # tied weights are one tensor under several names
            key = (tensor.data_ptr(), tuple(tensor.shape))
            if key not in written:
                out.write(bytes(-out.tell() % _ALIGNMENT))
                written[key] = Place(out.tell(), tuple(tensor.shape), tensor.dtype)
                out.write(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
            places[name] = written[key]
        total = out.tell()
    return SharedBase(
        file,
        places,
        total,
        type(base.model),
        base.model.config,
        base.tokenizer,
        base.name,
        base.source,
        base.fingerprint,
        base.dtype,
        str(base.device),
    )


def _tensor_at(storage: Any, place: Place) -> Tensor:  # noqa: ANN401 - torch's storage of bytes
    empty = torch.empty(0, dtype=place.dtype)
    strides = torch.empty(place.shape, device="meta").stride()
    return empty.set_(storage, place.start_bytes // place.dtype.itemsize, place.shape, strides)
