"""Bottleneck experts on disk, in a form of our own: PEFT has none for them."""

import math
from pathlib import Path
from typing import Any

from collegium.core.errors import IncompatibleExpert
from collegium.experts.own_files import read_own, write_own
from collegium.experts.payloads import AdapterPayload
from collegium.experts.places import Sites, check_parts, check_sites, check_tensors
from collegium.models import BottleneckWeights


def write_bottleneck(payload: AdapterPayload, folder: Path) -> None:
    """Write the two files, with each place's scale in config.json."""
    check_parts(payload.adapter, where="the new expert")
    scales = {path: part.scale for path, part in payload.adapter.items() if isinstance(part, BottleneckWeights)}
    write_own("bottleneck", payload.adapter, folder, fields={"scales": scales})


def read_bottleneck(folder: Path, *, sites: Sites | None = None) -> AdapterPayload:
    """Return the adapter in a folder; `sites` are the base's, with which it must agree."""
    config, tensors = read_own("bottleneck", folder, fields={"scales": _scales})
    check_tensors("bottleneck", tensors, where=str(folder))
    if config["scales"].keys() != tensors.keys():
        odd = sorted(config["scales"].keys() ^ tensors.keys())
        raise IncompatibleExpert(f"{folder}: each place needs a scale and weights; one of them is missing for {odd}.")
    adapter = {path: BottleneckWeights(**own, scale=float(config["scales"][path])) for path, own in tensors.items()}
    if sites is not None:
        check_sites(adapter, sites, where=str(folder))
    return AdapterPayload(adapter)


def _scales(value: Any) -> bool:  # noqa: ANN401 - any JSON
    return isinstance(value, dict) and all(
        isinstance(each, int | float) and not isinstance(each, bool) and math.isfinite(each) for each in value.values()
    )
