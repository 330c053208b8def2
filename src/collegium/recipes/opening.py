"""From a model reference to a language model."""

from dataclasses import dataclass
from pathlib import Path

from collegium.compose import TEXTLESS, Cast, Mix, assemble, check_base, open_task_mixture
from collegium.compose.context import REFERENCE, is_on_composition
from collegium.compose.wearing import carrier, wearing
from collegium.core.errors import BaseModelError, ConfigError, IncompatibleExpert, LibraryError, UnknownName
from collegium.core.protocols import LanguageModel
from collegium.core.routing import BASE
from collegium.core.tables import nearest
from collegium.experts import AdapterPayload
from collegium.library import Library
from collegium.models import BASES, Base, load_base, memory_of
from collegium.recipes.columns import Way, build_way
from collegium.recipes.common import Common
from collegium.recipes.reference import Reference, parse_reference
from collegium.recipes.watch import Watch
from collegium.routers import fixed
from collegium.routers import parse as parse_router
from collegium.routers.gates import GateRecipe

DEFAULT_BASE = "smollm2-135m"


@dataclass(frozen=True)
class Opened:
    """A reference, opened: the model, and where it comes from a library, its parts.

    library: the library or the selection asked for. way: how it is composed, None for a base or one expert.
    """

    reference: Reference
    base: Base
    model: LanguageModel
    cast: Cast | None = None
    library: Library | None = None
    way: Way | None = None

    @property
    def experts(self) -> tuple[str, ...]:
        """The experts it can ask."""
        return () if self.cast is None else self.cast.names


def open_base(reference: str, common: Common) -> Base:
    """Return the base that a reference names, on the device and in the dtype asked for."""
    common.apply_threads()
    base = load_base(reference, device=common.device, dtype=common.dtype)
    base.expert_memory_bytes = common.expert_memory * 1_000_000 or None
    return base


def kept_reference(reference: str) -> str:
    """Return what a library keeps of its base's reference: a folder by its whole path, good from any directory."""
    if reference in BASES or reference.startswith("hf:"):
        return reference
    return str(Path(reference).expanduser().absolute())


def open_library(path: Path, common: Common) -> tuple[Base, Library]:
    """Return an existing library and its base; raises BaseModelError when the base it names is another by now."""
    library = Library(path, read_only=True)
    found = open_base(library.base_reference, common)
    if found.fingerprint != library.base_fingerprint:
        raise BaseModelError(
            f"the library {path} is for base {library.base_fingerprint.short}, but {library.base_reference}, which it "
            f"was made with, is {found.fingerprint.short} now. Put the base back as it was."
        )
    return found, library


def gather(base: Base, library: Library, watch: Watch) -> Cast:
    """Return a library's experts ready to speak, having said first what its whole models take in memory."""
    whole = [row for row in library.rows().values() if row.kind == "whole" and row.task == "language"]
    if whole:
        held = sum(row.trained_parameters for row in whole) * base.dtype.itemsize
        free, _ = memory_of(base.device)
        watch.say(
            f"loading whole models beside the base ({', '.join(row.name for row in whole)}): {held / 1e9:.2f} GB for "
            f"their weights, {free / 1e9:.2f} GB are free"
        )
    return assemble(base, library)


def open_reference(text: str, common: Common, *, watch: Watch, weights: dict[str, float] | None = None) -> Opened:
    """Return the model of a reference: a base, a composition of a library, or one expert of it.

    weights: fixed expert weights in place of the library's router (what is missing to 1 goes to the base); a merge
             takes any finite ones.
    """
    reference = parse_reference(text)
    if weights is not None and (reference.library is None or reference.member is not None):
        raise ConfigError(f"--experts weighs the experts of a library; {text!r} is one model. Give --model LIB.")
    if reference.library is None:
        base = open_base(text, common)
        return Opened(reference, base, base)
    base, library = open_library(Path(reference.library), common)
    check_speakers(library, reference.experts if reference.member is None else (reference.member,))
    if reference.member is not None:
        return _open_member(reference, reference.member, base, library, watch)
    check_composable(library, reference.experts)
    chosen = library if not reference.experts else select(library, reference.experts)
    cast = gather(base, chosen, watch)
    way = _way(reference, chosen, weights)
    return Opened(reference, base, build_way(way, cast, chosen), cast, chosen, way)


def select(library: Library, names: tuple[str, ...]) -> Library:
    """Return the part of a library with these experts; raises UnknownName with the nearest."""
    for name in names:
        if name not in library.names():
            raise UnknownName(f"the library has no expert {name!r}. {nearest(name, library.names())}")
    return library.filter(names)


def check_speakers(library: Library, names: tuple[str, ...]) -> None:
    """Raise LibraryError for the name of a reward model, or of an expert that says nothing of the next token."""
    for name in names:
        row = library.rows().get(name)
        task = "reward" if row is None and name in library.model_names() else None if row is None else row.task
        if task not in (None, "language") and not (row is not None and row.problem):
            raise LibraryError(
                f"{name!r} is for {task} and writes no text, so it is no language model. Reward models are asked with "
                "`collegium reward score` and `collegium reward eval`."
            )


def check_composable(library: Library, names: tuple[str, ...]) -> None:
    """Raise LibraryError for an expert of many tasks among those chosen: it has gates of its own."""
    for name in names:
        row = library.rows().get(name)
        if row is not None and row.kind == "mta":
            raise LibraryError(
                f"{name!r} is an expert of many tasks with gates of its own, which no router weighs; open it by "
                f"itself: LIB#{name}."
            )


def _open_member(reference: Reference, member: str, base: Base, library: Library, watch: Watch) -> Opened:
    if member == BASE:
        return Opened(reference, base, base)
    chosen, card = select(library, (member,)), library.card(member)
    check_base(card, base)
    if is_on_composition(card):
        return _open_on_composition(reference, member, base, library, watch)
    if card.kind == "mta":
        return Opened(reference, base, open_task_mixture(base, library[member]), library=chosen)
    cast = gather(base, chosen, watch)
    return Opened(reference, base, alone(cast, member), cast, chosen)


def _open_on_composition(reference: Reference, member: str, base: Base, library: Library, watch: Watch) -> Opened:
    """Return a policy on a composition of the same library: the composition, each of its rows wearing the policy."""
    card = library.card(member)
    below = parse_reference(f"{library.path}{card.context[REFERENCE]}", library_at=lambda path: True)
    chosen = select(library, below.experts)
    changed = [name for name, digest in card.parents.items() if chosen.expert_digest(name) != digest]
    if changed:
        raise IncompatibleExpert(
            f"policy {member!r} was made on a composition with {changed[0]!r}, of which the library has another now. "
            "Put it back as it was, or align anew."
        )
    cast = gather(base, chosen, watch)
    way = _way(below, chosen, None)
    model = build_way(way, cast, chosen)
    payload = library[member].payload
    assert isinstance(payload, AdapterPayload)
    key = f"{member}@{library.expert_digest(member)}"
    if key not in base.attached:
        carrier(model).attach(key, payload.adapter)
    return Opened(reference, base, wearing(model, key), cast, chosen, way)


def alone(cast: Cast, name: str) -> LanguageModel:
    """Return one expert of a cast as a language model by itself, or its base; raises UnknownName."""
    if name == BASE:
        return cast.base
    if name not in cast.names:
        raise UnknownName(f"there is no expert {name!r} here. {nearest(name, (BASE, *cast.names))}")
    if name in cast.whole:
        return cast.whole[name]
    return Mix(cast.base, {name: cast.keys[name]}, fixed({name: 1.0}).bind((name,)))


def _composition(router: str | None) -> str | None:
    """Return the one composition that gates can be used in, None for a router."""
    return "mix" if router is not None and isinstance(parse_router(router), GateRecipe) else None


def _way(reference: Reference, library: Library, weights: dict[str, float] | None) -> Way:
    compose = reference.compose or _composition(reference.router) or library.defaults.composition or "ensemble"
    if compose == "merge" and reference.top_k:
        raise ConfigError("merge makes one model for all texts, so top_k has nothing to choose; leave it out.")
    prune = reference.prune or 0.0
    if prune and compose != "ensemble":
        raise ConfigError(f"prune lets experts of an ensemble leave; {compose} is one row a text. Leave prune out.")
    if weights is not None:
        merged = compose == "merge"
        return Way(compose, fixed({} if merged else weights), reference.top_k, prune, weights if merged else None)
    top_k = reference.top_k if reference.router or compose == "merge" else reference.top_k or library.defaults.top_k
    router = reference.router or library.defaults.router or "default"
    if compose == "merge" and not reference.router and parse_router(router).name not in TEXTLESS:
        router = "uniform"
    return Way(compose, parse_router(router), top_k, prune)
