"""What every model of the small-scale table costs: each is run by itself, its rows are counted where they are asked."""

import functools
from collections.abc import Callable, Mapping

from collegium.claims.counting import CountingVoices
from collegium.claims.small_growth import token_scores
from collegium.compose import Cast, Choice, Ensemble, SlotVoices
from collegium.core.protocols import LanguageModel, RouterRecipe, Shelf
from collegium.core.routing import BASE
from collegium.infer import HeldOut
from collegium.routers import cluster, posterior, uniform

Run = tuple[Callable[[], object], Callable[[], int]]
"""A scoring of the timed windows, and after it: how many experts each text was run through."""


def timed_models(
    casts: Mapping[str, Cast], shelves: Mapping[str, Shelf], text: HeldOut, *, kept: tuple[str, ...]
) -> dict[str, Run]:
    """Return a run of each model of the table under its name; `kept` are the experts that a cached prior keeps."""
    experts = casts["experts"]
    base = experts.base
    voices = SlotVoices(base, {name: key for cast in casts.values() for name, key in cast.keys.items()})
    runs: dict[str, Run] = {BASE: (_scoring(base, text), lambda: 0)}
    for name in voices.keys:
        runs[name] = (functools.partial(voices.score, text.tokens, Choice((name,)), lengths=text.lengths), lambda: 1)
    told = functools.partial(token_scores, voices, text, text.domain_names, batch=len(text.domains))
    runs["dense-token"] = (told, lambda: 1)
    equal = {name: 1 / len(experts.names) for name in experts.names}
    runs["merge uniform"] = (_scoring(experts.merged(equal), text), lambda: 0)
    for label, family, recipe, top_k in (
        ("ensemble uniform", "experts", uniform(), None),
        ("ensemble posterior", "experts", posterior(), None),
        ("ensemble posterior top-1", "experts", posterior(), 1),
        ("ensemble posterior top-2", "experts", posterior(), 2),
        ("ensemble cluster", "experts", cluster(), None),
        ("ensemble cluster top-2", "experts", cluster(top_k=2), None),
        ("random experts, posterior", "random", posterior(), None),
        ("cluster experts, posterior", "clusters", posterior(), None),
        ("cluster experts, cluster", "clusters", cluster(), None),
    ):
        runs[label] = _ensemble(casts[family], recipe, text, shelf=shelves.get(family), top_k=top_k)
    runs["ensemble cached prior top-2"] = _ensemble(experts, posterior(), text, names=kept)
    return runs


def _scoring(model: LanguageModel, text: HeldOut) -> Callable[[], object]:
    return functools.partial(model.score, text.tokens, lengths=text.lengths, context=text.context)


def _ensemble(
    cast: Cast,
    recipe: RouterRecipe,
    text: HeldOut,
    *,
    names: tuple[str, ...] | None = None,
    shelf: Shelf | None = None,
    top_k: int | None = None,
) -> Run:
    counted = CountingVoices(cast.voices())
    router = recipe.bind(names or cast.names, shelf=shelf, tokenizer=cast.base.tokenizer)
    return _scoring(Ensemble(counted, router, top_k=top_k), text), lambda: max(counted.asked)
