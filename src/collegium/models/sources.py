"""Bases by reference: a pinned name, a transformers folder, or a model of the hub at a revision."""

import json
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from collegium.core.cache import cache_folder
from collegium.core.cards import Fingerprint
from collegium.core.errors import BaseModelError
from collegium.core.protocols import Tokenizer
from collegium.core.tables import nearest
from collegium.models.architectures import Opening, opening_of
from collegium.models.base import Base
from collegium.models.convert import MINILM, SMOLLM2, PinnedBase, fetch_pinned
from collegium.models.damage import damage_told
from collegium.models.device import choose_device, choose_dtype
from collegium.models.fingerprint import NO_TOKENIZER, folder_fingerprint, folder_tokenizer_hash
from collegium.models.quiet import quiet_transformers

BASES: dict[str, PinnedBase] = {"smollm2-135m": SMOLLM2, "minilm-l6": MINILM}
"""Bases that a package registry carries: a name always means the same file, online or off."""

Progress = Callable[[str], None]
_HUB = re.compile(r"hf:(?P<repository>[\w.-]+/[\w.-]+)(?:@(?P<revision>[\w./-]+))?")
_HUB_FILES = ["*.json", "*.safetensors", "*.txt", "tokenizer.model", "*.jinja"]


def load_base(
    ref: str | Path = "smollm2-135m", *, device: str = "auto", dtype: str = "float32", progress: Progress | None = None
) -> Base:
    """Return the base that a reference names: `smollm2-135m`, a transformers folder, or `hf:owner/name@revision`.

    Whether it speaks is the folder's business: a sequence classifier (`config.json` says so) and an encoder such as
    `minilm-l6` read texts alone. An encoder is opened as a sequence classifier of one output, whose head is no part of
    the base.

    device:   `auto`, `cpu`, `cuda` or `mps`.
    dtype:    `float32`, `bfloat16`, or `auto` = the one measured faster; the fingerprint does not depend on it.
    progress: told what happens while a base is fetched and converted for the first time.

    Raises BaseModelError for an unknown name, a folder that holds no such model in safetensors, or a model that cannot
    be fetched; ConfigError for a device or dtype that this machine does not have.
    """
    place = choose_device(device)
    number = choose_dtype(dtype, place)
    folder, name = _folder(ref, progress or _silent), str(ref)
    if name in BASES and not isinstance(ref, Path):
        pinned = BASES[name]
        mark = pinned_mark(folder, pinned)
        return _load_folder(folder, place, number, name=name, source=pinned.source, fingerprint=mark)
    if name.startswith("hf:"):
        return _load_folder(folder, place, number, name=name, source=f"{name} (Hugging Face hub)")
    return _load_folder(folder, place, number, name=folder.resolve().name, source=f"the transformers folder {folder}")


def load_tokenizer(ref: str | Path, *, progress: Progress | None = None) -> Tokenizer | None:
    """Return the tokenizer of the base that a reference names, its weights left unread; None for a base without one.

    Raises BaseModelError where `load_base` does, save for weights that are there and cannot be read.
    """
    folder = _folder(ref, progress or _silent)
    check_folder(folder)
    return None if folder_tokenizer_hash(folder) == NO_TOKENIZER else _read_tokenizer(folder)


def load_config(ref: str | Path, *, progress: Progress | None = None) -> Any:  # noqa: ANN401 - a transformers configuration
    """Return the text configuration of the base that a reference names, its weights left unread.

    Raises BaseModelError where `load_base` does, save for weights that are there and cannot be read.
    """
    from transformers import AutoConfig

    folder = _folder(ref, progress or _silent)
    check_folder(folder)
    with damage_told(f"{folder}/config.json cannot be read"):
        found: Any = AutoConfig.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        return found.get_text_config()


def _folder(ref: str | Path, progress: Progress) -> Path:
    """Return the folder of the base that a reference names, fetched when it is not there yet."""
    name = str(ref)
    if name in BASES and not isinstance(ref, Path):
        return fetch_pinned(name, BASES[name], progress)
    if name.startswith("hf:"):
        return hub_folder(name, progress)
    folder = Path(ref).expanduser()
    if not folder.is_dir():
        raise BaseModelError(
            f"no base is called {name!r}, and there is no such folder. {nearest(name, BASES)} A base is one of "
            f"{', '.join(BASES)}, a transformers folder, or hf:owner/name@revision."
        )
    return folder


def pinned_mark(folder: Path, pinned: PinnedBase) -> Fingerprint:
    """Return a pinned base's fingerprint: its one stored file, and what its tokenizer maps to what."""
    return Fingerprint(pinned.file_sha256, folder_tokenizer_hash(folder), pinned.file_sha256)


def hub_folder(ref: str, progress: Progress) -> Path:
    """Return the local snapshot of `hf:owner/name@revision`, fetched when it is not there yet."""
    match = _HUB.fullmatch(ref)
    if match is None or match["revision"] is None:
        raise BaseModelError(
            f"a model of the hub is named hf:owner/name@revision, got {ref!r}; the revision (a commit or a tag) is "
            "needed because a name must always mean the same weights."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    wanted = {"repo_id": match["repository"], "revision": match["revision"], "allow_patterns": _HUB_FILES}
    try:
        folder = Path(snapshot_download(**wanted, local_files_only=True))
        if is_whole(folder) and folder_tokenizer_hash(folder) != NO_TOKENIZER:
            return folder
    except LocalEntryNotFoundError:
        pass
    except HFValidationError as error:
        raise BaseModelError(f"{ref!r} names no model of the hub: {error}") from error
    progress(f"fetching {match['repository']} at {match['revision']} from the hub")
    try:
        folder = Path(snapshot_download(**wanted))  # without a network, what lies here of it
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise BaseModelError(
            f"{ref!r} is not in the local hub cache and cannot be fetched ({type(error).__name__}). Go online, check "
            "the name and revision, or load a folder you copied here."
        ) from error
    if not is_whole(folder):
        raise BaseModelError(
            f"{ref!r} lacks config.json or safetensors weights in {folder}: either only a part of it was ever fetched "
            "and the hub cannot be reached now, or it never had them. Go online and run again, or take another model."
        )
    return folder


def is_whole(folder: Path) -> bool:
    """Return whether a snapshot holds a configuration and every file of its weights; other tools fetch single files."""
    index = folder / "model.safetensors.index.json"
    weights = {path.name for path in folder.glob("model*.safetensors")}
    needed = set(json.loads(index.read_text())["weight_map"].values()) if index.is_file() else set()
    return (folder / "config.json").is_file() and bool(weights) and needed <= weights


def _load_folder(
    folder: Path,
    device: torch.device,
    dtype: torch.dtype,
    *,
    name: str,
    source: str,
    fingerprint: Fingerprint | None = None,
) -> Base:
    weights = check_folder(folder)
    mark = fingerprint or folder_fingerprint(folder, weights=weights, cache=cache_folder())
    model = _read_model(folder, device, dtype)
    tokenizer = None if mark.tokenizer == NO_TOKENIZER else _read_tokenizer(folder)
    return Base.from_model(model, tokenizer, name=name, source=source, fingerprint=mark)


def check_folder(folder: Path) -> list[Path]:
    """Return a transformers folder's weight files; raises BaseModelError unless they are safetensors."""
    if not (folder / "config.json").is_file():
        raise BaseModelError(f"{folder} has no config.json, so it is no transformers folder; name the folder that has.")
    try:
        config = json.loads((folder / "config.json").read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise BaseModelError(f"{folder}/config.json is not JSON: {error}.") from error
    if not isinstance(config, dict):
        raise BaseModelError(
            f"{folder}/config.json holds no object but a {type(config).__name__}; copy the folder again."
        )
    if "auto_map" in config:
        raise BaseModelError(
            f"{folder}/config.json asks to run code from the folder, which Collegium never does; use a base whose "
            "architecture transformers knows."
        )
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise BaseModelError(
            f"{folder} has no model*.safetensors; weights in pickle files (.bin, .pt) are never opened. Save the "
            "model again with save_pretrained."
        )
    return weights


def _read_model(folder: Path, device: torch.device, dtype: torch.dtype) -> Any:  # noqa: ANN401 - a transformers model
    opening = opening_of(json.loads((folder / "config.json").read_text()))
    with damage_told(f"{folder} cannot be loaded as {opening.what}"), quiet_transformers(), _same_head(opening):
        model, report = opening.loader.from_pretrained(
            folder,
            dtype=dtype,
            use_safetensors=True,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            **opening.options,
        )
        model = model.to(device)
    missing = opening.missed(report["missing_keys"], model)
    if missing:
        raise BaseModelError(f"{folder} lacks {len(missing)} weights, {missing[0]!r} among them; copy it again.")
    return model


@contextmanager
def _same_head(opening: Opening) -> Iterator[None]:
    """Let a head that is made anew be the same one each time, and the generator as it was."""
    with torch.random.fork_rng(devices=[], enabled=opening.headless):
        if opening.headless:
            torch.manual_seed(0)
        yield


def _read_tokenizer(folder: Path) -> Any:  # noqa: ANN401 - a transformers tokenizer
    from transformers import AutoTokenizer

    with damage_told(f"the tokenizer files of {folder} cannot be read"):
        return AutoTokenizer.from_pretrained(folder, local_files_only=True, trust_remote_code=False)


def _silent(message: str) -> None:
    """Say nothing."""
