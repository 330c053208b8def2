"""Prefix experts on disk, in a form of our own: the bits that our slots compute with.

PEFT's prefixes carry positions, ours do not (peft_prefix.py turns one into the other for bases with rotary positions);
a rotation to PEFT's form and back would not return the same bits, and other bases have no such form at all. See
docs/decisions/0009-prefix-files.md.
"""

from pathlib import Path

from collegium.experts.own_files import read_own, write_own
from collegium.experts.payloads import AdapterPayload
from collegium.experts.places import Sites, check_parts, check_sites, check_tensors
from collegium.models import PrefixWeights


def write_prefix(payload: AdapterPayload, folder: Path) -> None:
    """Write the two files."""
    check_parts(payload.adapter, where="the new expert")
    write_own("prefix", payload.adapter, folder, fields={})


def read_prefix(folder: Path, *, sites: Sites | None = None) -> AdapterPayload:
    """Return the adapter in a folder; `sites` are the base's, with which it must agree in heads and their size."""
    _, tensors = read_own("prefix", folder, fields={})
    check_tensors("prefix", tensors, where=str(folder))
    adapter = {path: PrefixWeights(**own) for path, own in tensors.items()}
    if sites is not None:
        check_sites(adapter, sites, where=str(folder))
    return AdapterPayload(adapter)
