"""Experts on disk: a folder with a card and the payload's files, checked on the way in and on the way out."""

import dataclasses
import os
from pathlib import Path

from collegium.core.cards import ExpertCard, Fingerprint, expert_card_from_json, to_json
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.core.files import STAGING_PREFIX, file_hash, write_new
from collegium.core.names import check_name, is_name
from collegium.core.tensors import PICKLE_SUFFIXES, check_finite
from collegium.experts.formats import FORMATS
from collegium.experts.mta_files import check_mta_sites
from collegium.experts.payloads import Expert, MtaPayload, Payload, WholePayload
from collegium.experts.peft_fields import CONFIG_FILE
from collegium.experts.places import Sites, check_parts, check_sites
from collegium.experts.whole import check_task

CARD_FILE = "card.json"
METRICS_FILE = "metrics.jsonl"

_TRAINER_FILES = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Pickles that a transformers Trainer leaves in checkpoint folders; they are no weights and nobody opens them."""


def write_payload(payload: Payload, folder: Path) -> dict[str, str]:
    """Write a payload's files into a folder and return file name -> sha256."""
    FORMATS[payload.kind].write(payload, folder)
    return {path.name: file_hash(path) for path in sorted(folder.iterdir())}


def save_expert(expert: Expert, folder: Path) -> ExpertCard:
    """Write an expert into an empty folder and return its card, completed with the payload's checksums.

    Raises CorruptExpert for a card that could not be read again.
    """
    check_name(expert.name)
    if isinstance(expert.payload, WholePayload):
        check_task(expert.card, expert.payload)
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise CorruptExpert(f"{folder} is not empty; an expert gets a folder of its own.")
    card = dataclasses.replace(expert.card, payload=write_payload(expert.payload, folder))
    text = to_json(card)
    expert_card_from_json(text, where=f"expert {expert.name!r}")
    write_new(folder / CARD_FILE, text.encode())
    return card


def read_card(folder: Path) -> ExpertCard:
    """Return the card in an expert's folder; raises CorruptExpert when it is missing, damaged, or of another name."""
    try:
        card = expert_card_from_json((folder / CARD_FILE).read_text(encoding="utf-8"), where=str(folder))
    except (FileNotFoundError, NotADirectoryError) as error:
        raise CorruptExpert(f"{folder} has no {CARD_FILE}, so it holds no expert.") from error
    except UnicodeDecodeError as error:
        raise CorruptExpert(f"{folder}: {CARD_FILE} is not UTF-8 text ({error}).") from error
    if not is_name(card.name):
        raise CorruptExpert(f"{folder}: the card names the expert {card.name!r}, which is no name: it leads elsewhere.")
    return card


def load_expert(folder: Path, *, base: Fingerprint | None = None, sites: Sites | None = None) -> Expert:
    """Return the expert in a folder, having checked card, checksums, shapes and values.

    base, sites: what it must fit; None = not checked here.

    Raises CorruptExpert for what is damaged or hostile, IncompatibleExpert for what is made for something else.
    """
    card = read_card(folder)
    refuse_pickles(folder)
    check_base(card, base)
    _check_files(card, folder)
    payload = FORMATS[card.kind].read(folder, sites=sites)
    if isinstance(payload, WholePayload):
        check_task(card, payload)
    return Expert(card, payload)


def check_expert(expert: Expert, *, base: Fingerprint | None = None, sites: Sites | None = None) -> None:
    """Raise what `load_expert` would raise for an expert in memory."""
    check_name(expert.name)
    check_base(expert.card, base)
    if isinstance(expert.payload, WholePayload):
        check_task(expert.card, expert.payload)
    elif isinstance(expert.payload, MtaPayload):
        for task, adapter in expert.payload.adapters.items():
            check_parts(adapter, where=f"expert {expert.name!r}, task {task}")
        check_finite(expert.payload.tensors, where=f"expert {expert.name!r}")
        check_mta_sites(expert.payload, sites, where=f"expert {expert.name!r}")
    else:
        tensors = {
            f"{path} {name}": tensor
            for path, part in expert.payload.adapter.items()
            for name, tensor in part.tensors.items()
        }
        if not tensors:
            raise CorruptExpert(f"expert {expert.name!r} changes no layer at all.")
        check_parts(expert.payload.adapter, where=f"expert {expert.name!r}")
        head = {} if expert.payload.head is None else expert.payload.head.tensors
        check_finite(tensors | {f"head {name}": each for name, each in head.items()}, where=f"expert {expert.name!r}")
        if sites is not None:
            check_sites(expert.payload.adapter, sites, where=f"expert {expert.name!r}")


def check_base(card: ExpertCard, base: Fingerprint | None) -> None:
    """Raise IncompatibleExpert, naming both, when a card's base is another one; a whole model shares the tokenizer."""
    if base is None or card.base is None:
        return
    if card.kind == "whole" and card.base.tokenizer != base.tokenizer:
        raise IncompatibleExpert(
            f"expert {card.name!r} reads tokenizer {card.base.tokenizer[:12]}, this base {base.short} reads "
            f"{base.tokenizer[:12]}. Only models of one tokenizer can speak together."
        )
    if card.kind != "whole" and card.base != base:
        raise IncompatibleExpert(
            f"expert {card.name!r} was made for base {card.base.short}, this is base {base.short}. "
            "Train it again on this base, or use the base it was made for."
        )


def refuse_pickles(folder: Path) -> None:
    """Raise CorruptExpert, naming the file, when a folder holds pickled weights."""
    for path in sorted(folder.iterdir()):
        if path.suffix in PICKLE_SUFFIXES and not path.name.startswith(_TRAINER_FILES):
            raise CorruptExpert(
                f"{path} may be a pickle, which can run code when opened. Save the weights as safetensors "
                "(`safe_serialization=True`) and delete it."
            )


def is_peft_folder(folder: Path) -> bool:
    """Return whether a folder holds a PEFT adapter from elsewhere: its configuration, but no card of ours."""
    return (folder / CONFIG_FILE).is_file() and not (folder / CARD_FILE).exists()


def _check_files(card: ExpertCard, folder: Path) -> None:
    found = {entry.name for entry in os.scandir(folder) if not entry.name.startswith(STAGING_PREFIX)}
    files = FORMATS[card.kind].files
    odd = sorted(((found - {METRICS_FILE}) ^ {CARD_FILE, *files}) | (card.payload.keys() ^ files))
    if odd:
        raise CorruptExpert(f"{folder} must hold, and its card list, {sorted(files)}; missing or unknown: {odd}.")
    if any((folder / name).is_symlink() or not (folder / name).is_file() for name in files):
        raise CorruptExpert(f"{folder}: {sorted(files)} must be plain files.")
    wrong = [name for name in sorted(files) if file_hash(folder / name) != card.payload[name]]
    if wrong:
        raise CorruptExpert(
            f"{folder}: {wrong} are not what the card was written for (sha256 differs): damaged, truncated or "
            "replaced. Get the expert again."
        )
