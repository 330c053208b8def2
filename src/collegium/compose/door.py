"""Composing a base, a library and a router into one language model."""

from collections.abc import Mapping
from dataclasses import dataclass

from collegium.compose.context import adapter_in_context, is_on_composition
from collegium.compose.ensemble import Ensemble
from collegium.compose.gated import GatedMix
from collegium.compose.joined import JoinedVoices, SeparateVoices
from collegium.compose.merge import check_weights, fold, textless_weights
from collegium.compose.mix import Mix
from collegium.compose.routed import only_router, with_top_k
from collegium.compose.voices import SlotVoices, Voices
from collegium.core.cards import ExpertCard
from collegium.core.errors import IncompatibleExpert, LibraryError, RoutingError
from collegium.core.protocols import Shelf
from collegium.core.routing import BASE
from collegium.experts import AdapterPayload, Expert, average_whole, open_whole
from collegium.library import Library
from collegium.models import Base
from collegium.routers import Recipe, default
from collegium.routers.gates import GateRecipe

ComposedModel = Ensemble | Mix | GatedMix | Base
"""What a composition makes: a language model of one of these final classes."""


@dataclass(frozen=True)
class Cast:
    """A library's language experts, ready to speak.

    keys: adapter experts -> name under which each is attached to the base; whole: experts with weights of their own.
    """

    base: Base
    keys: Mapping[str, str]
    whole: Mapping[str, Base]

    @property
    def names(self) -> tuple[str, ...]:
        """All experts' names."""
        return (*self.keys, *self.whole)

    def voices(self) -> Voices:
        """Return the experts and the base as voices."""
        slots = SlotVoices(self.base, self.keys)
        return JoinedVoices([slots, SeparateVoices(self.whole)]) if self.whole else slots

    def ensembled(
        self, recipe: Recipe, *, shelf: Shelf | None, top_k: int | None = None, prune: float = 0.0
    ) -> Ensemble:
        """Return the experts' next-token probabilities mixed by a router; raises RoutingError for gates."""
        router = only_router(recipe, what="an ensemble")
        bound = router.bind(self.names, shelf=shelf, tokenizer=self.base.tokenizer)
        return Ensemble(self.voices(), bound, top_k=top_k, prune=prune)

    def mixed(self, recipe: Recipe, *, shelf: Shelf | None, top_k: int | None = None) -> Mix | GatedMix:
        """Return the experts blended inside the base, by a router or by gates.

        Raises RoutingError for whole models, ResourceError for gates over more experts than may lie in memory.
        """
        if self.whole:
            raise RoutingError(
                f"mix blends inside one base, but {sorted(self.whole)} are whole models; use ensemble, or merge."
            )
        if isinstance(recipe, GateRecipe):
            held = self.base.adapters(list(self.keys.values()))
            adapters = {name: held[key] for name, key in self.keys.items()}
            gates = with_top_k(recipe, top_k)
            return GatedMix(
                self.base, self.keys, gates.bind_gates(self.names, base=self.base, adapters=adapters, shelf=shelf)
            )
        bound = recipe.bind(self.names, shelf=shelf, tokenizer=self.base.tokenizer)
        return Mix(self.base, self.keys, bound, top_k=top_k)

    def merged(self, weights: Mapping[str, float]) -> Base:
        """Return one model with the weighted experts folded in, or whole models averaged, the base by its own weight.

        Raises RoutingError on unknown names, weights that are not finite, or both kinds at once.
        """
        live = check_weights(weights, self.names)
        if not any(name in self.whole for name in live):
            return fold(self.base, self.keys, {name: weight for name, weight in live.items() if name != BASE})
        if any(name in self.keys for name in live):
            raise RoutingError(f"merge averages whole models or folds adapters, not both at once: {sorted(live)}.")
        models = {BASE: self.base, **self.whole}
        return average_whole([models[name] for name in live], list(live.values()), name=BASE)


def assemble(base: Base, library: Library) -> Cast:
    """Return the library's language experts attached to the base; those on a composition and task mixtures open alone.

    Raises LibraryError when there is none, IncompatibleExpert when one was made for another base.
    """
    keys: dict[str, str] = {}
    whole: dict[str, Base] = {}
    for name in library.names(task="language"):
        card = library.card(name)
        check_base(card, base)
        if is_on_composition(card) or card.kind == "mta":
            continue
        if card.kind == "whole":
            whole[name] = open_whole(library[name], base)
        else:
            keys[name] = _offer(base, library, name)
    if not keys and not whole:
        raise LibraryError(
            "the library holds no language expert (experts for rewards or classification say nothing of the next "
            "token); add one with `collegium train` or `library add`."
        )
    return Cast(base, keys, whole)


def check_base(card: ExpertCard, base: Base) -> None:
    """Raise IncompatibleExpert when an expert names another base; an unverified one was checked by its shapes."""
    made_for = card.base
    if made_for is None:
        return
    if card.kind == "whole":
        if made_for.tokenizer != base.fingerprint.tokenizer:
            raise IncompatibleExpert(f"expert {card.name!r} has another tokenizer than base {base.name}.")
    elif made_for != base.fingerprint:
        raise IncompatibleExpert(
            f"expert {card.name!r} was made for base {made_for.short}, this is {base.fingerprint.short} "
            f"({base.name}). Train it again on this base, or load the base it was made for."
        )


def attach_expert(base: Base, expert: Expert) -> str:
    """Attach an adapter expert to the base, once per content, and return the key it is attached under."""
    if not isinstance(expert.payload, AdapterPayload):
        raise IncompatibleExpert(f"expert {expert.card.name!r} of kind {expert.card.kind!r} has no adapter to attach.")
    key = f"{expert.card.name}@{expert.digest[:16]}"
    if key not in base.attached:
        base.attach(key, expert.payload.adapter)
    return key


def _offer(base: Base, library: Library, name: str) -> str:
    """Offer an adapter expert to the base, which reads it on first use, and return the key it is offered under.

    An equal expert of another library may have been offered before, and may be gone by now: this one is read instead.
    """
    key = f"{name}@{(library.expert_digest(name) or '')[:16]}"
    tell = base.reoffer if key in base.attached else base.offer
    tell(key, lambda: adapter_in_context(library, name))
    return key


def ensemble(
    base: Base, library: Library, *, router: Recipe | None = None, top_k: int | None = None, prune: float = 0.0
) -> Ensemble:
    """Return the language model that mixes the experts' next-token probabilities.

    router: default = classifier on the prompt as prior, then posterior. top_k: how many experts keep weight.
    prune:  the posterior under which experts leave at the end of every 16 tokens, such as 1e-3; 0 = nobody leaves.
    Raises RoutingError for gates and for a router of open weights: those are for mix.
    """
    return assemble(base, library).ensembled(router or default(), shelf=library, top_k=top_k, prune=prune)


def mix(base: Base, library: Library, *, router: Recipe | None = None, top_k: int | None = None) -> Mix | GatedMix:
    """Return the language model that blends the experts' activations inside the base: one row a text.

    router: a router, or gates (`arrow()`, `phatgoose()`, `xlora()`) that decide layer by layer.
    Raises RoutingError when the library holds whole models.
    """
    return assemble(base, library).mixed(router or default(), shelf=library, top_k=top_k)


def merge(
    base: Base,
    library: Library,
    *,
    weights: Mapping[str, float] | None = None,
    router: Recipe | None = None,
) -> Base:
    """Return one model with the weighted experts folded in: it costs what the base costs.

    weights: expert -> any finite weight; or router: one that needs no text (uniform, fixed, cached_prior).
    Whole models are averaged with each other and, where it has weight, with the base (weights normalised), never with
    adapters. To adapters the base's weight does nothing: they are added to it.
    """
    if (weights is None) == (router is None):
        raise RoutingError("merge takes either weights={name: weight} or a router that needs no text.")
    cast = assemble(base, library)
    if weights is None:
        assert router is not None
        weights = textless_weights(router, cast.names, shelf=library, tokenizer=base.tokenizer)
    return cast.merged(weights)
