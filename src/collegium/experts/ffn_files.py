"""Exchanged feed-forward blocks on disk, in a form of our own: PEFT has none for them."""

from pathlib import Path

from collegium.experts.own_files import read_own, write_own
from collegium.experts.payloads import AdapterPayload
from collegium.experts.places import Sites, check_parts, check_sites, check_tensors
from collegium.models import FfnWeights


def write_ffn(payload: AdapterPayload, folder: Path) -> None:
    """Write the two files; the tensors of a place are its block's parameters by their names inside it."""
    check_parts(payload.adapter, where="the new expert")
    write_own("ffn", payload.adapter, folder, fields={})


def read_ffn(folder: Path, *, sites: Sites | None = None) -> AdapterPayload:
    """Return the adapter in a folder; `sites` are the base's, with which it must agree in every parameter."""
    _, tensors = read_own("ffn", folder, fields={})
    adapter = {path: FfnWeights(own) for path, own in tensors.items()}
    check_tensors("ffn", tensors, where=str(folder))
    if sites is not None:
        check_sites(adapter, sites, where=str(folder))
    return AdapterPayload(adapter)
