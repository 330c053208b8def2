"""Whole small models as experts: a transformers folder, opened as a base of its own.

A language expert speaks; an expert for rewards or classification is a sequence classifier with its head.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from collegium.core.cards import ExpertCard, Fingerprint, read_json
from collegium.core.errors import CorruptExpert, IncompatibleExpert, ResourceError
from collegium.core.tensors import check_finite, read_shapes, safetensors_errors
from collegium.experts.payloads import Expert, WholePayload
from collegium.experts.places import Sites
from collegium.models import Base, memory_errors
from collegium.models.architectures import CLASSIFIER, LANGUAGE, Opening, declares_classifier, is_classifier
from collegium.models.fingerprint import hash_config
from collegium.models.quiet import quiet_transformers

CONFIG_FILE = "config.json"
TENSOR_FILE = "model.safetensors"

_RUNS_CODE = frozenset(
    {
        "auto_map",
        "quantization_config",
        "attn_implementation",
        "_attn_implementation",
        "_attn_implementation_internal",
        "experts_implementation",
        "_experts_implementation",
        "_experts_implementation_internal",
    }
)
"""Fields of config.json that lead transformers to code beside its own: a model's, a quantiser's, a hub kernel's."""


def write_whole(payload: WholePayload, folder: Path) -> None:
    """Write config.json and model.safetensors; raises CorruptExpert when what was written cannot be read back."""
    if isinstance(payload.model, Path):
        check_whole(payload.model)
        for name in (CONFIG_FILE, TENSOR_FILE):
            shutil.copyfile(payload.model / name, folder / name)
    else:
        with safetensors_errors(), quiet_transformers():
            payload.model.save_pretrained(folder, max_shard_size="100TB")
        for path in folder.iterdir():
            if path.name not in (CONFIG_FILE, TENSOR_FILE):
                path.unlink()
        # The weights are written readable by their owner alone; a library is read by whoever may read its other files.
        (folder / TENSOR_FILE).chmod((folder / CONFIG_FILE).stat().st_mode)
    check_whole(folder)
    load_model(folder, dtype=torch.float32, named=payload.model if isinstance(payload.model, Path) else "the new model")


def check_whole(folder: Path) -> None:
    """Raise CorruptExpert when a whole model's files are missing, truncated, not finite, or ask to run code."""
    asked = sorted(_RUNS_CODE & _fields(read_json(folder / CONFIG_FILE)))
    if asked:
        raise CorruptExpert(
            f"{folder}: config.json asks to run code ({', '.join(asked)}); only transformers' own models are read, "
            "with its own attention and plain weights. Take these fields out, or save the model without quantisation."
        )
    read_shapes(folder / TENSOR_FILE)
    with safe_open(folder / TENSOR_FILE, framework="pt") as file:
        for name in file.keys():  # noqa: SIM118 - a file, not a mapping
            check_finite({name: file.get_tensor(name)}, where=str(folder))


def check_task(card: ExpertCard, payload: WholePayload) -> None:
    """Raise IncompatibleExpert when a language expert's model does not speak, or a judge's is no classifier."""
    judge = is_judge(payload)
    if card.task == "language" and judge:
        raise IncompatibleExpert(
            f"expert {card.name!r} is a sequence classifier, which says nothing of the next token: it is no language "
            "expert. If it is a reward model or a classifier, its card must say so (task)."
        )
    if card.task != "language" and not judge:
        raise IncompatibleExpert(
            f"expert {card.name!r} is for {card.task}, its model is a language model without a head over a text: it "
            "says no number. Save it as transformers' ...ForSequenceClassification, head included."
        )


def is_judge(payload: WholePayload) -> bool:
    """Return whether a whole model is a sequence classifier."""
    model = payload.model
    return declares_classifier(read_json(model / CONFIG_FILE)) if isinstance(model, Path) else is_classifier(model)


def opening_of_whole(folder: Path) -> Opening:
    """Return how a whole model's folder is opened; a head is never made anew."""
    return CLASSIFIER if declares_classifier(read_json(folder / CONFIG_FILE)) else LANGUAGE


def read_whole(folder: Path, *, sites: Sites | None = None) -> WholePayload:
    """Return the whole model in a folder, checked; it has layers of its own, so a base's sites play no part."""
    del sites
    check_whole(folder)
    return WholePayload(folder)


def load_model(folder: Path, *, dtype: torch.dtype, named: Path | str = "") -> Any:  # noqa: ANN401 - a transformers model
    """Return the transformers model in a folder.

    named: what messages call it; default = the folder.

    Raises CorruptExpert when weights are missing, odd or misshapen, ResourceError when memory does not suffice.
    """
    named, opening = named or folder, opening_of_whole(folder)
    try:
        with quiet_transformers(), memory_errors("the number of whole models"):
            loaded: Any = opening.loader.from_pretrained(
                folder,
                local_files_only=True,
                trust_remote_code=False,
                use_safetensors=True,
                attn_implementation=None,
                dtype=dtype,
                output_loading_info=True,
                ignore_mismatched_sizes=True,
            )
    except ResourceError:
        raise
    except Exception as error:
        raise CorruptExpert(
            f"{named} holds no {opening.what.removeprefix('a ')} that transformers can open: {error!r}"
        ) from error
    model, report = loaded
    problems = {what: sorted(map(str, names)) for what, names in report.items() if names}
    if problems:
        raise CorruptExpert(f"{named}: the weights are not those that config.json describes: {problems}.")
    return model


def rebuilt(model: Any, state: Mapping[str, Tensor], *, dtype: torch.dtype) -> Any:  # noqa: ANN401 - transformers models
    """Return a model of the same class with other weights, and none of the hooks that experts left on the first."""
    with quiet_transformers():
        built = type(model).from_pretrained(None, config=model.config, state_dict=dict(state), dtype=dtype)
    return built.to(model.device)


def open_whole(expert: Expert, base: Base, *, dtype: torch.dtype | None = None) -> Base:
    """Return a whole-model expert as a base of its own, on the device of `base`, with its tokenizer.

    A reward model or classifier opens as a base that does not speak; its head is `model.score` or `model.classifier`.
    dtype: default = the base's; a model in memory that has another one stays as it is, and a copy is opened.

    Raises IncompatibleExpert when it has another vocabulary, is no whole model, or not what its card says it is for.
    """
    if not isinstance(expert.payload, WholePayload):
        raise IncompatibleExpert(f"expert {expert.name!r} is of kind {expert.card.kind!r}, not a whole model.")
    check_task(expert.card, expert.payload)
    model, dtype = expert.payload.model, dtype or base.dtype
    if isinstance(model, Path):
        model = load_model(model, dtype=dtype)
    elif model.dtype != dtype:
        model = rebuilt(model, model.state_dict(), dtype=dtype)
    model = model.to(base.device)
    opened = Base.from_model(
        model,
        base.tokenizer,
        name=expert.name,
        source=f"the whole-model expert {expert.name!r}",
        fingerprint=Fingerprint(hash_config(model.config.to_dict()), base.fingerprint.tokenizer, expert.digest),
    )
    if opened.vocab_size != base.vocab_size:
        raise IncompatibleExpert(
            f"expert {expert.name!r} has {opened.vocab_size} token ids, base {base.name} has {base.vocab_size}; "
            "only models of one vocabulary can be used together."
        )
    return opened


def _fields(config: Mapping[str, Any]) -> set[str]:
    """Return the names of all fields that say something, at any depth."""
    found: set[str] = set()
    waiting: list[Any] = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            found |= {name for name, each in value.items() if each}
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    return found
