"""`library merge`: one expert made of several, with its parents, its recipe and what it lost on its card."""

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from tyro.conf import OmitArgPrefixes, Positional, arg

from collegium.core.errors import ConfigError, NameTaken
from collegium.core.names import check_name
from collegium.data import Corpus, read_domains
from collegium.experts.algebra import Compressed, merged_expert
from collegium.experts.algebra.syntax import shortened
from collegium.experts.average import joined_documents
from collegium.library import Library
from collegium.models import Base, LoraWeights
from collegium.recipes.common import Common
from collegium.recipes.merging.operands import Operands, read_operands
from collegium.recipes.merging.ways import WAYS, Merge, Reading, Settings
from collegium.recipes.opening import open_library
from collegium.recipes.run_card import RunCard, make_card
from collegium.recipes.watch import Watch


@dataclass(frozen=True)
class MergeConfig:
    """Make one expert of several: "0.6*law + 0.4*code - toxic", or a list "law, code" and a method."""

    library: Path
    """The library of experts."""
    name: Annotated[str, arg(name="as")]
    """The new expert's name."""
    expression: Positional[str] = ""
    """A sum of experts, "(-toxic)" where it begins with a minus, or several with commas between them for --method; none
    = all (not for linear)."""
    rank: int = 0
    """The new expert's rank at every layer; 0 = the ranks of its parts together."""
    method: Literal["linear", "average", "ties", "dare", "regmean", "lorahub", "soup", "adaptersoup"] = "linear"
    """How several become one; lorahub and soup search weights on --data, adaptersoup takes the nearest to it."""
    data: Path | None = None
    """lorahub, soup, adaptersoup: texts of what the expert is to be good at; the dev part is searched on."""
    texts: Path | None = None
    """regmean, adaptersoup: the experts' own texts, a domain named after each."""
    density: float = 0.2
    """ties, dare: the share of entries kept."""
    nearest: int = 2
    """adaptersoup: how many experts."""
    penalty: float = 0.05
    """lorahub: nats for each unit of weight."""
    evaluations: int = 80
    """lorahub: how many blends are tried."""
    tokens: int = 4096
    """Tokens of text read for each blend (lorahub, soup) or expert (regmean)."""
    window: int = 128
    """Tokens a window."""
    columns: dict[str, str] = field(default_factory=dict)
    """Names of the text columns in tables: text=body."""
    dry_run: bool = False
    """Say what would be made and what it would lose, then stop; nothing is searched."""
    common: OmitArgPrefixes[Common] = field(default_factory=Common)
    """Seed and machine."""


def run(config: MergeConfig, *, watch: Watch) -> RunCard:
    """Return the run's card: the new expert's parents, weights, rank and relative error, in all and by layer.

    Raises what parsing, the algebra and the library raise; nothing is kept unless all went well.
    """
    start = time.perf_counter()
    way = WAYS[config.method]
    data, texts = _texts(config)
    base, library = _opened(config, needs_base=way.base)
    _check_free(library, config.name)
    operands = _operands(config, library)
    if config.dry_run and (way.base or way.data):
        return make_card("library merge", config, _plan(config, operands, watch), time.perf_counter() - start)
    settings = Settings(
        config.density,
        config.common.seed,
        config.nearest,
        config.penalty,
        config.evaluations,
        config.tokens,
        config.window,
    )
    merge = way.run(operands, settings, Reading(base, data, texts, watch))
    expert, made = merged_expert(
        config.name,
        merge.delta,
        operands.parents_under(merge.weights),
        recipe=_recipe(config, operands, merge),
        rank=config.rank or None,
        documents=joined_documents([domain.split().hashes for domain in data or ()]),
    )
    if not config.dry_run:
        library.add(expert, trust_base=True)
    result = {
        "added" if not config.dry_run else "would_add": config.name,
        "library": str(config.library),
        "kind": expert.card.kind,
        "parents": list(expert.card.parents),
        **_recipe(config, operands, merge),
        **_losses(made),
        "parameters": expert.card.trained_parameters,
        "recipe_hash": expert.card.recipe_hash[:12],
    }
    return make_card("library merge", config, result, time.perf_counter() - start)


def _texts(config: MergeConfig) -> tuple[Corpus | None, Corpus | None]:
    """Return the new text and the experts' own; raises ConfigError where a method lacks what it reads."""
    way, columns = WAYS[config.method], config.columns or None
    for flag, needed, given in (("--data", way.data, config.data), ("--texts", way.texts, config.texts)):
        if needed and given is None:
            raise ConfigError(f"--method {config.method} reads texts; give {flag} FOLDER.")
        if given is not None and not needed:
            raise ConfigError(f"--method {config.method} reads no {flag}; leave it out, or take another method.")
    data = None if config.data is None else read_domains(config.data, columns=columns)
    return data, None if config.texts is None else read_domains(config.texts, columns=columns)


def _opened(config: MergeConfig, *, needs_base: bool) -> tuple[Base | None, Library]:
    if not needs_base:
        return None, Library(config.library, read_only=config.dry_run)
    base, library = open_library(config.library, config.common)
    return base, library if config.dry_run else Library(config.library, base=base)


def _check_free(library: Library, name: str) -> None:
    """Raise NameTaken before anything is computed."""
    check_name(name)
    if name in (*library.names(), *library.router_names(), *library.model_names()):
        raise NameTaken(f"the library has {name!r} already; give --as another name, or remove it.")


def _operands(config: MergeConfig, library: Library) -> Operands:
    if config.method == "linear" and not config.expression.strip():
        raise ConfigError('there is nothing to merge; write which experts: "0.6*law + 0.4*code".')
    operands = read_operands(library, config.expression)
    if config.method not in ("linear", "dare", "lorahub") and len(operands.each) == 1:
        raise ConfigError(
            f"--method {config.method} makes one of several, with commas between them; "
            f'{shortened(config.expression)} is one. Write "law, code".'
        )
    return operands


def _recipe(config: MergeConfig, operands: Operands, merge: Merge) -> dict[str, Any]:
    """Return how the expert is made, as its card keeps it."""
    numbers = {
        "ties": ("density",),
        "dare": ("density",),
        "lorahub": ("penalty", "evaluations", "tokens", "window"),
        "soup": ("tokens", "window"),
        "regmean": ("tokens", "window"),
        "adaptersoup": ("nearest",),
    }.get(config.method, ())
    return {
        "method": config.method,
        "expression": config.expression.strip() or ", ".join(operands.texts),
        "operands": list(operands.texts),
        "weights": None if merge.weights is None else dict(merge.weights),
        "settings": {
            **{name: getattr(config, name) for name in numbers},
            **({"seed": config.common.seed} if config.method == "dare" else {}),
        },
        **merge.found,
    }


def _losses(made: Compressed) -> dict[str, Any]:
    """Return ranks and relative errors, in all, by layer, and as they would be at other ranks."""
    ranks = {part.rank for part in made.adapter.values() if isinstance(part, LoraWeights)}
    most = max((len(values) for values in made.values.values()), default=0)
    steps = sorted({*(2**power for power in range(most.bit_length()) if 2**power <= most), *ranks})
    return {
        "rank": max(ranks, default=None),
        "relative_error": made.error,
        "error_by_rank": {str(rank): made.error_at(rank) for rank in steps},
        "error_by_layer": made.errors,
    }


def _plan(config: MergeConfig, operands: Operands, watch: Watch) -> dict[str, Any]:
    """Return what a method that reads texts would do, without doing it."""
    asked = {"lorahub": config.evaluations, "soup": 2 * len(operands.each) - 1}.get(config.method, 0)
    read = {"regmean": len(operands.each) * config.tokens}.get(config.method, asked * config.tokens)
    watch.say(f"would merge {', '.join(operands.texts)} by {config.method}: {asked} blends, {read:,} tokens at most")
    return {"plan": {"operands": list(operands.texts), "method": config.method, "blends": asked, "tokens": read}}
