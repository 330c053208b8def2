"""How each kind of expert lies on disk: a row for a kind."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from collegium.core.cards import Kind
from collegium.experts import own_files, peft_fields
from collegium.experts.bottleneck_files import read_bottleneck, write_bottleneck
from collegium.experts.ffn_files import read_ffn, write_ffn
from collegium.experts.ia3_files import read_ia3, write_ia3
from collegium.experts.lora_files import read_lora, write_lora
from collegium.experts.mta_files import read_mta, write_mta
from collegium.experts.payloads import Payload
from collegium.experts.places import Sites
from collegium.experts.prefix_files import read_prefix, write_prefix
from collegium.experts.whole import read_whole, write_whole


@runtime_checkable
class Read(Protocol):
    """Reads a payload from its folder; `sites` are the base's, with which it must agree."""

    def __call__(self, folder: Path, *, sites: Sites | None = None) -> Payload:
        """Return the payload, or refuse."""
        ...


@dataclass(frozen=True)
class Format:
    """What a payload is made of (nothing else lies in an expert's folder), and how it is written and read."""

    files: frozenset[str]
    write: Callable[[Any, Path], None]
    read: Read


FORMATS: Mapping[Kind, Format] = {
    "lora": Format(peft_fields.FILES, write_lora, read_lora),
    "ia3": Format(peft_fields.FILES, write_ia3, read_ia3),
    "bottleneck": Format(own_files.FILES, write_bottleneck, read_bottleneck),
    "ffn": Format(own_files.FILES, write_ffn, read_ffn),
    "prefix": Format(own_files.FILES, write_prefix, read_prefix),
    "mta": Format(own_files.FILES, write_mta, read_mta),
    "whole": Format(own_files.FILES, write_whole, read_whole),
}
"""Kind -> its form on disk."""
