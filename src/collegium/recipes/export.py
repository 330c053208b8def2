"""`library export`: experts for other programs, whole or not at all."""

import dataclasses
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tyro.conf import OmitArgPrefixes, Positional

from collegium.compose import merge
from collegium.core.errors import ConfigError, IncompatibleExpert, LibraryError
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.experts import Expert
from collegium.experts.export import (
    FORMATS,
    MERGED,
    MERGED_KINDS,
    Served,
    check_format,
    check_kinds,
    check_place,
    export_folder,
    needs_base,
    write_merged,
)
from collegium.library import Library
from collegium.models import BASES, Base, load_config, pinned_folder
from collegium.recipes.common import Common
from collegium.recipes.generate import parse_weights
from collegium.recipes.opening import open_base, open_library, open_reference, select
from collegium.recipes.reference import parse_reference
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class ExportConfig:
    """Write experts for other programs: PEFT, vLLM, LoRAX, llama.cpp, or merged into one checkpoint."""

    to: str
    """peft, vllm, lorax, gguf (llama.cpp) or merged (a checkpoint of the base with the experts folded in)."""
    out: Path
    """The folder to write, new or empty."""
    names: Positional[tuple[str, ...]] = ()
    """The experts; default = all of the library, for peft those for rewards or classification too."""
    library: Path | None = None
    """The library of experts."""
    model: str = ""
    """In place of names and library, for merged: LIB?compose=merge&router=..., or LIB#NAME."""
    weights: str = ""
    """For merged, how much of each expert: a=0.6,b=0.4; default = all of the one expert named."""
    base: str = ""
    """Where the base is found; default = what the library says."""
    dry_run: bool = False
    """Check everything and say what would be written, then stop."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine; dtype auto means float32 here, a checkpoint's own."""


def run(config: ExportConfig, *, watch: Watch) -> RunCard:
    """Return the run's card; its result says what lies where and how it is used."""
    start = time.perf_counter()
    check_format(config.to)
    _check_flags(config)
    out = check_place(config.out)
    found = _run_merged(config, out, watch) if config.to == MERGED else _run_experts(config, out)
    result = {"format": config.to, "out": str(out), "written": not config.dry_run, **found}
    return make_card("library export", config, result, time.perf_counter() - start)


def _check_flags(config: ExportConfig) -> None:
    if config.to != MERGED and (config.model or config.weights):
        raise ConfigError(
            f"--model and --weights make one set of weights (--to {MERGED}); {config.to} takes experts one by one: "
            "name them, with --library."
        )
    if config.model and (config.names or config.weights or config.library is not None or config.base):
        raise ConfigError(
            "--model says it all; leave out names, --library, --base and --weights, or leave out --model."
        )
    if not config.model and config.library is None:
        raise ConfigError("give --library, the folder of the library that the experts lie in.")
    if len(set(config.names)) != len(config.names):
        raise ConfigError(f"each expert is named once; got {', '.join(config.names)}.")


def _run_experts(config: ExportConfig, out: Path) -> dict[str, Any]:
    """Check and write experts as experts; the base's weights are never read."""
    assert config.library is not None, "checked"
    library = Library(config.library, read_only=True)
    form = FORMATS[config.to]
    experts = chosen_experts(library, config.names, task=None if form.heads else "language")
    check_kinds(experts, form.kinds, form=config.to, heads=form.heads)
    _check_alone(experts, form=config.to)
    reference = config.base or library.base_reference
    if not reference:
        raise LibraryError(f"{config.library} does not say where its base is; give --base.")
    served = served_base(reference)
    if config.to == "peft" and needs_base(experts):
        served = dataclasses.replace(served, base=open_base(reference, _exact(config.common)))
    form.check(experts, served)
    told: dict[str, Any] = {"experts": [expert.name for expert in experts]}
    if config.dry_run:
        return told
    with export_folder(out) as aside:
        used = form.write(experts, served, aside, out)
        files = written_files(aside)
    return {**told, **used, "files": files}


def _check_alone(experts: Sequence[Expert], *, form: str) -> None:
    """Raise IncompatibleExpert for an expert that says nothing sensible without the one it was made on top of."""
    for expert in experts:
        if expert.card.context:
            raise IncompatibleExpert(
                f"expert {expert.name!r} was made on top of {', '.join(expert.card.parents) or 'a composition'} and is "
                f"no change of the bare base, which is what {form} takes it for. Write both into one checkpoint: "
                f"--to {MERGED} --model LIB#{expert.name}."
            )


def chosen_experts(library: Library, names: Sequence[str], *, task: str | None = None) -> list[Expert]:
    """Return the experts of these names, all of a task (None = of any) where there are none.

    Raises UnknownName with the nearest.
    """
    chosen = select(library, tuple(names)) if names else library
    experts = [chosen[name] for name in (names or chosen.names(task))]
    if not experts:
        raise LibraryError(f"{library.path} holds no expert; add one with `collegium train` or `library add`.")
    return experts


def served_base(reference: str) -> Served:
    """Return what another program is told of a base: its configuration, and its folder or its name on the hub."""
    config = load_config(reference)
    if reference in BASES:
        return Served(config, str(pinned_folder(reference, BASES[reference])))
    if reference.startswith("hf:"):
        name, _, revision = reference.removeprefix("hf:").partition("@")
        return Served(config, name, revision)
    return Served(config, str(Path(reference).expanduser().absolute()))


def _run_merged(config: ExportConfig, out: Path, watch: Watch) -> dict[str, Any]:
    """Check and write one set of weights."""
    model, told = _merged_reference(config, watch) if config.model else _merged_experts(config)
    if config.dry_run:
        return told
    watch.say(f"writing {model.memory_bytes / 1e9:.2f} GB")
    with export_folder(out) as aside:
        used = write_merged(model, aside)
        files = written_files(aside)
    return {**told, **used, "files": files}


def _merged_experts(config: ExportConfig) -> tuple[Base, dict[str, Any]]:
    """Return the base with the weighted experts folded in, and what is to be told of them."""
    assert config.library is not None, "checked"
    weights = merge_weights(Library(config.library, read_only=True), config.names, config.weights)
    if config.base:
        raise ConfigError("a merged checkpoint is made on the library's own base; leave out --base.")
    base, library = open_library(config.library, _exact(config.common))
    chosen = select(library, tuple(name for name in weights if name != BASE))
    check_kinds([chosen[name] for name in chosen], MERGED_KINDS, form=MERGED)
    return merge(base, chosen, weights=weights), {"experts": list(chosen), "weights": weights}


def merge_weights(library: Library, names: Sequence[str], text: str) -> dict[str, float]:
    """Return how much of each expert a merged checkpoint takes; raises ConfigError where it is not said."""
    weights = parse_weights(text, flag="--weights")
    names = names or tuple(weights or library.names("language"))
    if not names:
        raise LibraryError(f"{library.path} holds no expert; add one with `collegium train` or `library add`.")
    if weights is None:
        if len(names) != 1:
            raise ConfigError(
                f"a merged checkpoint of {', '.join(names)} needs --weights, such as a=0.6,b=0.4: how much of each."
            )
        return {names[0]: 1.0}
    odd = sorted((weights.keys() - {BASE}) ^ set(names))
    if odd:
        raise ConfigError(
            f"--weights weighs the experts named, each once; {odd[0]!r} is named in one place alone. "
            f"{nearest(odd[0], {*names, *weights} - {odd[0]})}"
        )
    return weights


def _merged_reference(config: ExportConfig, watch: Watch) -> tuple[Base, dict[str, Any]]:
    """Return the model of a reference that is one set of weights, and what is to be told of it."""
    reference = parse_reference(config.model)
    if reference.library is None:
        raise ConfigError(f"{config.model!r} is a base without experts; give LIB?compose=merge, or LIB#NAME.")
    library = Library(reference.library, read_only=True)
    asked = (reference.member,) if reference.member else reference.experts
    experts = chosen_experts(library, asked, task="language")
    check_kinds(experts, MERGED_KINDS, form=MERGED)
    if reference.member:
        given = dataclasses.replace(config, model="", names=asked, library=Path(reference.library))
        return _merged_experts(given)
    if (reference.compose or library.defaults.composition) != "merge":
        raise ConfigError(
            f"{config.model!r} is composed by {reference.compose or library.defaults.composition or 'ensemble'}, which "
            "is no single set of weights; write LIB?compose=merge."
        )
    opened = open_reference(config.model, _exact(config.common), watch=watch)
    assert isinstance(opened.model, Base), "a merge is a base"
    return opened.model, {"experts": list(opened.experts), "router": opened.way.label if opened.way else None}


def _exact(common: Common) -> Common:
    """Return the machine's options with float32 in place of auto: a checkpoint is kept, not timed."""
    return dataclasses.replace(common, dtype="float32") if common.dtype == "auto" else common


def written_files(folder: Path) -> dict[str, int]:
    """Return the files in a folder by their path there, with their bytes."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files}
