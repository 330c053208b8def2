"""`train --joint`: a new base that all domains share, and a library of it with one `ffn` expert a domain.

The order makes it safe to be killed at any point: checkpoints of the fit, then the base's folder, then the experts one
by one, then the checkpoints go. The same command goes on from whatever is there.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from collegium.core.cards import read_json, to_json
from collegium.core.errors import ConfigError, ResourceError
from collegium.core.files import staged_folder, write_new
from collegium.data import Corpus
from collegium.experts import FitConfig, JointFit, JointTraining
from collegium.experts.fresh import places_of
from collegium.experts.joint_blocks import joint_numbers
from collegium.experts.workers import clear_away
from collegium.library import Library
from collegium.models import Base, load_base, memory_of
from collegium.models.fingerprint import hash_state
from collegium.models.quiet import quiet_transformers
from collegium.recipes.building.training import StepBar
from collegium.recipes.common import Common
from collegium.recipes.reference import is_library
from collegium.recipes.watch import Watch

NOTE_FILE = "joint.json"
"""Beside the new base's files: which run made it, and of what."""
COPIES = 5
"""Weights, gradients, AdamW's two means and the best weights so far; all in single precision."""
_TASK = "joint"


@dataclass(frozen=True)
class JointPlace:
    """Where everything goes: the library, the new base's folder, the run's folder with checkpoints."""

    library: Path
    base: Path
    work: Path

    @property
    def task(self) -> Path:
        """Where checkpoints lie."""
        return self.work / _TASK


def joint_base_folder(library: Path, chosen: Path | None) -> Path:
    """Return the new base's folder: the one chosen, or the library's name with `-base` behind it.

    >>> joint_base_folder(Path("texts/mine"), None).name
    'mine-base'
    """
    place = (library if chosen is None else chosen).expanduser().absolute()
    return place.with_name(f"{place.name}-base") if chosen is None else place


def joint_bytes(base: Base, fit: FitConfig, domains: int) -> int:
    """Return the bytes that joint training holds of weights and what goes with them."""
    return 4 * COPIES * joint_numbers(base, places_of(base, fit), domains)


def check_memory(base: Base, fit: FitConfig, domains: int, watch: Watch) -> None:
    """Say what joint training takes in memory; raises ResourceError when that is more than is free."""
    need, (free, _) = joint_bytes(base, fit, domains), memory_of(base.device)
    watch.say(
        f"joint training of {domains} domains holds {need / 1e9:.2f} GB for weights, gradients and AdamW's means, "
        f"{free / 1e9:.2f} GB are free on {base.device}"
    )
    if need > free:
        raise ResourceError(
            f"joint training of {domains} domains needs {need / 1e9:.2f} GB on {base.device}, {free / 1e9:.2f} GB are "
            "free: take a smaller base, fewer --domains, or blocks of the top layers alone (--layers top:K)."
        )


def train_joint(
    base: Base, corpus: Corpus, fit: FitConfig, *, place: JointPlace, common: Common, watch: Watch
) -> tuple[Base, Library, dict[str, Any]]:
    """Return the new base, its library with an expert for every domain, and what became of each.

    fit: of kind `ffn`.

    Raises ConfigError when the base's folder or the library is of something else, and what `JointTraining` raises.
    """
    check_memory(base, fit, len(corpus), watch)
    training = JointTraining(base, corpus, config=fit)
    _check_place(place, training)
    stored = place.base.exists()
    if stored:
        loaded, library = _open_library(place, common)
        if all(name in library for name in corpus.names):
            watch.say("all domains are in the library already")
            clear_away(place.task)
            return loaded, library, {}
        _check_left(place)
    bar = StepBar(watch.begin("training jointly", training.steps))
    done = training.run(checkpoint=place.task / "checkpoints", logger=bar)
    bar.update(training.steps)
    if stored:
        _check_same(place, done)
    else:
        keep_base(done, place.base, note=_note(training, done))
    del training
    loaded, library = _open_library(place, common)
    for expert in done.experts(loaded):
        if expert.name not in library:
            library.add(expert, measured=done.curve)
            for warning in expert.card.warnings:
                watch.say(f"{expert.name}: {warning}")
    clear_away(place.task)
    watch.say(f"the shared part is a base of its own: {place.base}")
    return loaded, library, {name: _figures(library, name, done) for name in corpus.names}


def keep_base(done: JointFit, folder: Path, *, note: dict[str, Any]) -> None:
    """Write the new base as a transformers folder, whole or not at all, with a note of what it is."""
    with staged_folder(folder) as aside:
        with quiet_transformers():
            done.model.model.save_pretrained(aside, max_shard_size="100TB")
        done.model.tokenizer.save_pretrained(aside)
        for weights in aside.glob("*.safetensors"):
            weights.chmod(0o644)  # written readable by their owner alone
        write_new(aside / NOTE_FILE, to_json(note).encode())


def _note(training: JointTraining, done: JointFit) -> dict[str, Any]:
    return {
        "made_by": "collegium train --joint",
        "identity": training.identity,
        "weights": _weights(done),
        "recipe": training.recipe,
        "own_blocks": "the average of the domains' feed-forward blocks; each domain's own are experts of kind ffn",
        "held_out_nats": None if done.history.best is None else done.history.best.loss,
        "documents": {
            name: {key: list(value) for key, value in card.documents.items()} for name, card in done.cards.items()
        },
    }


def _check_place(place: JointPlace, training: JointTraining) -> None:
    """Raise ConfigError when something else lies where the new base or its library is to go."""
    if place.base.exists():
        if not (place.base / NOTE_FILE).is_file():
            raise ConfigError(f"{place.base} is there and was not made by train --joint; give another --joint-base.")
        if read_json(place.base / NOTE_FILE).get("identity") != training.identity:
            raise ConfigError(
                f"{place.base} is the base of another joint training (other texts, settings or base). Give another "
                "--joint-base and --library, or go on with the settings it was made with."
            )
    elif is_library(str(place.library)):
        raise ConfigError(
            f"{place.library} is a library for another base: --joint makes a new base and a library for it. Give a new "
            "--library. To add a domain to a joint library: train DATA --library LIB --base BASE --kind ffn --from "
            "nearest."
        )


def _check_left(place: JointPlace) -> None:
    """Raise ConfigError when the base is there and neither all experts nor the fit that they come from are."""
    if not any(place.task.glob("checkpoints/step-*")):
        raise ConfigError(
            f"{place.base} was made by this very run, but {place.library} lacks experts of it and nothing is left of "
            "the fit. Delete both to train again, or train the missing domains alone on that base (--base)."
        )


def _check_same(place: JointPlace, done: JointFit) -> None:
    """Raise ConfigError when the stored base is not the one whose experts are about to be added."""
    if read_json(place.base / NOTE_FILE).get("weights") != _weights(done):
        raise ConfigError(
            f"{place.base} was stored by this run before it was interrupted, and the fit has come out otherwise since "
            "(another machine?). Delete that folder and run again."
        )


def _weights(done: JointFit) -> str:
    return hash_state(done.model.model.state_dict())


def _open_library(place: JointPlace, common: Common) -> tuple[Base, Library]:
    base = load_base(place.base, device=common.device, dtype=common.dtype)
    base.expert_memory_bytes = common.expert_memory * 1_000_000 or None
    return base, Library(place.library, base=base, base_reference=str(place.base))


def _figures(library: Library, name: str, done: JointFit) -> dict[str, Any]:
    card = library.card(name)
    return {
        "tokens_seen": card.tokens_seen,
        "trained_parameters": card.trained_parameters,
        "held_out_nats_before": done.before[name],
        "held_out_nats": done.after[name],
        "recipe_hash": card.recipe_hash[:12],
        "warnings": list(card.warnings),
    }
