"""What every way of keeping an expert on disk must satisfy: what comes back is what went in, or it is refused."""

import hashlib
import json
import math
import pickle
import re
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from collegium.core.cards import ExpertCard, Fingerprint
from collegium.core.errors import CollegiumError, CorruptExpert, IncompatibleExpert
from collegium.experts import AdapterPayload, Expert
from collegium.models import Site

Sites = Mapping[str, Site]


@runtime_checkable
class ExpertFormat(Protocol):
    """A way of keeping experts: `collegium.experts.save_expert` and `load_expert` are ours."""

    def save(self, expert: Expert, folder: Path) -> ExpertCard:
        """Write into an empty folder; return the card with the payload's checksums."""
        ...

    def load(self, folder: Path, *, base: Fingerprint | None = None, sites: Sites | None = None) -> Expert:
        """Return what was written, or refuse."""
        ...


Tensors = Callable[[Expert], dict[str, Tensor]]
"""Everything an expert computes with, by name."""


def check_expert_format(form: ExpertFormat, expert: Expert, *, sites: Sites, tensors: Tensors | None = None) -> None:
    """Return nothing when a format keeps its laws for this expert; raise AssertionError with what broke.

    The laws: what is loaded equals what was saved, to the bit, card included; equal experts are written as equal
    bytes; the card lists every file's checksum; a file that is truncated, changed, missing, unknown, a pickle, or not
    finite is refused even when the card was made to agree with it; so are another base (naming both), other shapes,
    an unknown card field and a name with path parts.

    expert:  any sound one, its card with a base. sites: the places for experts of that base.
    tensors: how to read the payload; default = everything that an adapter of any kind computes with.
    """
    read = tensors or adapter_tensors
    with tempfile.TemporaryDirectory() as place:
        trial = _Trial(form, expert, sites, Path(place))
        _check_round_trip(trial, read)
        for damage in (*_DAMAGES, *(_ADAPTER_DAMAGES if isinstance(expert.payload, AdapterPayload) else ())):
            for sealed in (False, True):
                _check_refused(trial, damage, sealed=sealed)
        _check_other_base(trial)


def adapter_tensors(expert: Expert) -> dict[str, Tensor]:
    """Return everything an adapter computes with, by place and name: its tensors, scales and sides."""
    assert isinstance(expert.payload, AdapterPayload), "give `tensors` for experts that are no adapters"
    found: dict[str, Tensor] = {}
    for path, part in expert.payload.adapter.items():
        found |= {f"{path} {name}": tensor for name, tensor in part.tensors.items()}
        for field in fields(part):
            value = getattr(part, field.name)
            if isinstance(value, float):
                found[f"{path} {field.name}"] = torch.tensor(value, dtype=torch.float64)
            elif isinstance(value, str):
                found[f"{path} {field.name} {value}"] = torch.zeros(0)
    return found


@dataclass
class _Trial:
    form: ExpertFormat
    expert: Expert
    sites: Sites
    place: Path
    count: int = 0

    def saved(self) -> Path:
        """Return a fresh folder with the expert in it."""
        self.count += 1
        folder = self.place / f"trial-{self.count}"
        folder.mkdir()
        self.form.save(self.expert, folder)
        return folder

    def load(self, folder: Path) -> Expert:
        return self.form.load(folder, base=self.expert.card.base, sites=self.sites)


@dataclass(frozen=True)
class _Damage:
    """One way to harm a folder; `kinds` are the errors that may refuse it."""

    what: str
    harm: Callable[[Path], None]
    kinds: tuple[type[CollegiumError], ...] = (CorruptExpert,)


def _check_round_trip(trial: _Trial, read: Tensors) -> None:
    first, second = trial.saved(), trial.saved()
    contents = [{path.name: path.read_bytes() for path in folder.iterdir()} for folder in (first, second)]
    assert contents[0] == contents[1], "equal experts are written as equal bytes"
    loaded = trial.load(first)
    assert loaded.card.payload == _checksums(first), "the card lists the sha256 of every file but itself"
    assert replace(loaded.card, payload={}) == replace(trial.expert.card, payload={}), "the card comes back as it was"
    before, after = read(trial.expert), read(loaded)
    assert before.keys() == after.keys(), f"the payload lost or gained {before.keys() ^ after.keys()}"
    for name, tensor in before.items():
        same = tensor.dtype == after[name].dtype and torch.equal(tensor, after[name])
        assert same, f"{name} comes back with the same bits"


def _check_refused(trial: _Trial, damage: _Damage, *, sealed: bool) -> None:
    folder = trial.saved()
    damage.harm(folder)
    if sealed:
        _seal(folder)
    try:
        trial.load(folder)
    except damage.kinds:
        return
    except Exception as error:
        raise AssertionError(f"{damage.what} is refused with a clear error, got {type(error).__name__}") from error
    agreed = " although the card was made to agree" if sealed else ""
    raise AssertionError(f"{damage.what} must be refused{agreed}")


def _check_other_base(trial: _Trial) -> None:
    base = trial.expert.card.base
    assert base is not None, "give an expert whose card names its base"
    other = Fingerprint("0" * 64, "1" * 64, "2" * 64)
    try:
        trial.form.load(trial.saved(), base=other, sites=trial.sites)
    except IncompatibleExpert as error:
        words = set(_words(str(error)))
    else:
        raise AssertionError("an expert of another base must be refused")
    assert words & {base.short, base.tokenizer[:12]}, f"the error names the expert's base, it says: {words}"
    assert words & {other.short}, f"the error names the base it was meant for, it says: {words}"


def _words(text: str) -> list[str]:
    return [word.strip(".,;:'\"()") for word in text.split()]


def _checksums(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.iterdir()) if path.is_file() and path.name != "card.json")
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _seal(folder: Path) -> None:
    """Make the card agree with the files, as somebody would who means harm."""
    card = folder / "card.json"
    try:
        raw = json.loads(card.read_text())
    except json.JSONDecodeError:
        return  # A card that is no JSON cannot be made to agree.
    card.write_text(json.dumps({**raw, "payload": _checksums(folder)}))


def _tensor_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.suffix == ".safetensors")


def _truncate(folder: Path) -> None:
    path = _tensor_file(folder)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def _empty(folder: Path) -> None:
    _tensor_file(folder).write_bytes(b"")


def _spoil(value: float) -> Callable[[Path], None]:
    def harm(folder: Path) -> None:
        tensors = load_file(_tensor_file(folder))
        first = sorted(tensors)[0]
        changed = tensors[first].clone()
        changed.view(-1)[-1] = value
        save_file({**tensors, first: changed}, _tensor_file(folder), metadata={"format": "pt"})

    return harm


def _reshape(folder: Path) -> None:
    tensors = load_file(_tensor_file(folder))
    name = max(name for name in tensors if tensors[name].dim() >= 2)
    wider = torch.cat([tensors[name], tensors[name][:1]])
    save_file({**tensors, name: wider}, _tensor_file(folder), metadata={"format": "pt"})


def _pickle_inside(folder: Path) -> None:
    _tensor_file(folder).write_bytes(pickle.dumps({"weights": [1.0]}))


def _pickle_beside(folder: Path) -> None:
    (folder / "adapter_model.bin").write_bytes(pickle.dumps({"weights": [1.0]}))


def _unknown_file(folder: Path) -> None:
    (folder / "notes.txt").write_text("what is this?")


def _unknown_folder(folder: Path) -> None:
    (folder / "weights").mkdir()


def _lose_tensors(folder: Path) -> None:
    _tensor_file(folder).unlink()


def _edit_card(**fields: Any) -> Callable[[Path], None]:  # noqa: ANN401 - any JSON
    def harm(folder: Path) -> None:
        card = folder / "card.json"
        card.write_text(json.dumps({**json.loads(card.read_text()), **fields}))

    return harm


def _config_file(folder: Path) -> Path:
    return next(path for path in sorted(folder.iterdir()) if path.name.endswith("config.json"))


def _edit_config(folder: Path) -> None:
    config = _config_file(folder)
    config.write_text(json.dumps({**json.loads(config.read_text()), "a_field_of_the_future": 3}))


def _stray_tensor(folder: Path) -> None:
    tensors = load_file(_tensor_file(folder))
    save_file({**tensors, "stray": torch.zeros(2, 2)}, _tensor_file(folder), metadata={"format": "pt"})


def _move(folder: Path) -> None:
    path = _tensor_file(folder)
    moved = {re.sub(r"\.[01]\.", ".77.", name): each for name, each in load_file(path).items()}
    save_file(moved, path, metadata={"format": "pt"})
    config = _config_file(folder)
    config.write_text(re.sub(r"\.[01]\.", ".77.", config.read_text()))


def _half_card(folder: Path) -> None:
    card = folder / "card.json"
    card.write_text(card.read_text()[:-9])


_DAMAGES = (
    _Damage("a truncated file", _truncate),
    _Damage("an empty file", _empty),
    _Damage("a NaN", _spoil(math.nan)),
    _Damage("an infinity", _spoil(math.inf)),
    _Damage("a pickle under the name of a tensor file", _pickle_inside),
    _Damage("a pickle beside the tensor file", _pickle_beside),
    _Damage("an unknown file", _unknown_file),
    _Damage("an unknown folder", _unknown_folder),
    _Damage("a lost tensor file", _lose_tensors),
    _Damage("half a card", _half_card),
    _Damage("an unknown card field", _edit_card(colour="red")),
    _Damage("a card field of the wrong type", _edit_card(tokens_seen="many")),
    _Damage("a name with path parts", _edit_card(name="../x"), (CollegiumError,)),
)
_ADAPTER_DAMAGES = (
    _Damage("weights of another shape", _reshape, (CorruptExpert, IncompatibleExpert)),
    _Damage("an unknown field of the configuration", _edit_config, (CorruptExpert, IncompatibleExpert)),
    _Damage("a tensor that belongs nowhere", _stray_tensor, (CorruptExpert, IncompatibleExpert)),
    _Damage("weights at a place that the base lacks", _move, (CorruptExpert, IncompatibleExpert)),
)
