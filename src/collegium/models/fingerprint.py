"""Fingerprints: sha256 of a base's configuration, tokenizer and weights, none of which depends on the dtype in use."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from collegium.core.cards import Fingerprint, content_hash
from collegium.core.files import file_hash, write_text
from collegium.models.damage import damage_told

NO_TOKENIZER = "none"
_VOLATILE = {"transformers_version", "torch_dtype", "dtype", "_name_or_path", "architectures", "use_cache"}
_TOKENIZER_FILES = ("tokenizer.model", "vocab.json", "vocab.txt", "merges.txt", "spiece.model")


def hash_config(config: Mapping[str, Any]) -> str:
    """Return the sha256 of a configuration without what changes from one version of transformers to the next."""
    kept = {key: value for key, value in config.items() if key not in _VOLATILE and not key.startswith("_")}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


def hash_tokenizer(description: Mapping[str, Any]) -> str:
    """Return the sha256 of what a `tokenizer.json` maps to what: how it cuts text, its model and its added tokens.

    Versions of tokenizers write a merge as `"a b"` or as `["a", "b"]`; both are the same here.
    """
    added = sorted((token["id"], token["content"]) for token in description.get("added_tokens") or ())
    model = description.get("model", {})
    merges = [merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model.get("merges") or ()]
    kept = {"type": model.get("type"), "vocab": model.get("vocab"), "merges": merges}
    cuts = {key: description.get(key) for key in ("normalizer", "pre_tokenizer")}
    return content_hash({"model": kept, "added": added, **cuts})


def hash_state(state: Mapping[str, Tensor]) -> str:
    """Return the sha256 of tensors under their names."""
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def memory_fingerprint(model: Any, tokenizer: Any) -> Fingerprint:  # noqa: ANN401 - transformers objects
    """Return the fingerprint of a base that lies in memory alone."""
    return Fingerprint(
        hash_config(model.config.to_dict()), live_tokenizer_hash(tokenizer), hash_state(model.state_dict())
    )


def live_tokenizer_hash(tokenizer: Any) -> str:  # noqa: ANN401 - a transformers tokenizer
    """Return the fingerprint part of a tokenizer in memory: what `tokenizer.json` would give, or its vocabulary."""
    if tokenizer is None:
        return NO_TOKENIZER
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is not None:
        return hash_tokenizer(json.loads(backend.to_str()))
    return content_hash({"vocab": tokenizer.get_vocab()})


def cached_sha256(path: Path, cache: Path) -> str:
    """Return the sha256 of a file, read again only when its size or time of change differs from the last time."""
    stat = path.stat()
    stamp = {"path": str(path.resolve()), "bytes": stat.st_size, "changed_ns": stat.st_mtime_ns}
    note = cache / "hashes" / f"{content_hash(stamp['path'])[:32]}.json"
    try:
        known = json.loads(note.read_text())
    except (FileNotFoundError, json.JSONDecodeError):
        known = {}
    if isinstance(known, dict) and {key: known.get(key) for key in stamp} == stamp and "sha256" in known:
        return known["sha256"]
    digest = file_hash(path)
    write_text(note, json.dumps({**stamp, "sha256": digest}))
    return digest


def folder_fingerprint(folder: Path, *, weights: list[Path], cache: Path) -> Fingerprint:
    """Return the fingerprint of a transformers folder's stored files."""
    config = hash_config(json.loads((folder / "config.json").read_text()))
    digests = {path.name: cached_sha256(path, cache) for path in weights}
    return Fingerprint(config, folder_tokenizer_hash(folder), content_hash(digests))


def folder_tokenizer_hash(folder: Path) -> str:
    """Return the fingerprint part of a folder's tokenizer files, `none` when it has none."""
    description = folder / "tokenizer.json"
    if description.is_file():
        with damage_told(f"{description} describes no tokenizer"):
            return hash_tokenizer(json.loads(description.read_text()))
    files = [folder / name for name in _TOKENIZER_FILES if (folder / name).is_file()]
    return content_hash({path.name: file_hash(path) for path in files}) if files else NO_TOKENIZER
