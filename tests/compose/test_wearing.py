"""Models whose rows all wear one more adapter: equal to the same composition on a base with it folded in."""

from collections.abc import Callable

import pytest
import torch

from collegium.compose import ensemble, merge, mix
from collegium.compose.wearing import carrier, learnt_scores, wearing
from collegium.core.errors import RoutingError, UnknownName
from collegium.core.protocols import LanguageModel
from collegium.experts.fresh import with_tensors
from collegium.library import Library
from collegium.models import Base, RowPlan
from collegium.routers import fixed, posterior, uniform
from collegium.routers.gates import arrow
from collegium.testing.pico import pico_base, random_adapter, random_expert

TOKENS = torch.tensor([[72, 101, 108, 108, 111, 32, 33, 65], [65, 66, 67, 68, 69, 70, 0, 0]])
ASKED = {"lengths": torch.tensor([8, 6]), "context": torch.tensor([2, 3])}

MODELS: dict[str, Callable[[Base, Library], LanguageModel]] = {
    "base": lambda base, library: base,
    "merge": lambda base, library: merge(base, library, weights={"a": 0.5, "b": -0.2}),
    "mix": lambda base, library: mix(base, library, router=fixed({"a": 0.7, "b": 0.3})),
    "ensemble": lambda base, library: ensemble(base, library, router=uniform()),
    "ensemble by posterior": lambda base, library: ensemble(base, library, router=posterior()),
    "ensemble of one": lambda base, library: ensemble(base, library, router=posterior(), top_k=1),
}


@pytest.fixture
def library(tmp_path) -> Library:
    base = pico_base()
    library = Library(tmp_path / "library", base=base)
    for seed, name in enumerate("ab"):
        library.add(random_expert(base, seed, name=name))
    return library


def worn(model: LanguageModel, seed: int = 9, *, scale: float = 0.5) -> LanguageModel:
    base = carrier(model)
    base.attach("worn", random_adapter(base, seed, scale=scale))
    return wearing(model, "worn")


@pytest.mark.parametrize("name", MODELS)
def test_wearing_is_the_same_composition_on_a_base_with_the_adapter_folded_in(name: str, library: Library) -> None:
    dressed = worn(MODELS[name](pico_base(), library))
    plain = pico_base()
    if name == "merge":
        folded = MODELS[name](plain, library)
        assert isinstance(folded, Base)
        folded.attach("worn", random_adapter(folded, 9))
        other: LanguageModel = folded.folded({"worn": 1.0})
    else:
        plain.attach("worn", random_adapter(plain, 9))
        inner = plain.folded({"worn": 1.0})
        inner.fingerprint = plain.fingerprint
        other = MODELS[name](inner, library)
    torch.testing.assert_close(dressed.score(TOKENS, **ASKED), other.score(TOKENS, **ASKED), atol=1e-4, rtol=0)
    torch.testing.assert_close(dressed.logprobs(TOKENS), other.logprobs(TOKENS), atol=1e-4, rtol=0)


def test_a_base_that_wears_an_adapter_is_the_row_of_it() -> None:
    base = pico_base()
    dressed = worn(base)
    assert torch.equal(dressed.logprobs(TOKENS), base.logprobs_rows(TOKENS, plan=RowPlan.one("worn"))[0])
    assert not torch.allclose(dressed.logprobs(TOKENS), base.logprobs(TOKENS))


@pytest.mark.parametrize("name", MODELS)
def test_what_changes_nothing_is_worn_without_effect(name: str, library: Library) -> None:
    model = MODELS[name](pico_base(), library)
    dressed = worn(model, scale=0.0)
    torch.testing.assert_close(dressed.score(TOKENS, **ASKED), model.score(TOKENS, **ASKED), atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_texts_continued_are_scored_as_they_were_drawn(name: str, library: Library) -> None:
    dressed = worn(MODELS[name](pico_base(), library))
    decoding = dressed.open([[72, 101], [65, 66]])
    said = torch.zeros(2)
    for place in range(2, 6):
        said += decoding.next_logprobs()[torch.arange(2), TOKENS[:, place]]
        decoding.step(TOKENS[:, place])
    scores = dressed.score(TOKENS[:, :6], lengths=torch.tensor([6, 6]), context=2)
    torch.testing.assert_close(said, scores.sum(1), atol=1e-4, rtol=0)


@pytest.mark.parametrize("name", MODELS)
def test_learnt_scores_are_the_scores_and_have_their_slope(name: str, library: Library) -> None:
    model = MODELS[name](pico_base(), library)
    base = carrier(model)
    adapter = with_tensors(random_adapter(base, 9), lambda each: each.clone().requires_grad_())
    base.attach("worn", adapter)
    dressed = wearing(model, "worn")
    learnt = learnt_scores(dressed, TOKENS, **ASKED)
    torch.testing.assert_close(learnt.detach(), dressed.score(TOKENS, **ASKED), atol=1e-5, rtol=0)
    weights = [each for part in adapter.values() for each in part.tensors.values()]
    slopes = torch.autograd.grad(learnt.sum(), weights)
    step = 0.003 / max(float(slope.norm()) for slope in slopes)
    up, down = (moved(dressed, weights, slopes, sign * step) for sign in (1, -1))
    rise = 2 * step * sum(float(slope.square().sum()) for slope in slopes)
    assert up - down == pytest.approx(rise, rel=0.05)


def moved(model: LanguageModel, weights: list, slopes: tuple, step: float) -> float:
    """Return the sum of scores after a step along the slopes, which is taken back."""
    with torch.no_grad():
        for weight, slope in zip(weights, slopes, strict=True):
            weight += step * slope
        found = float(model.score(TOKENS, **ASKED).double().sum())
        for weight, slope in zip(weights, slopes, strict=True):
            weight -= step * slope
    return found


def test_a_mix_hears_what_it_heard_without_the_adapter(library: Library) -> None:
    model = mix(pico_base(), library, router=posterior())
    dressed = worn(model)
    before, after = model.routing(TOKENS, context=4), dressed.routing(TOKENS, context=4)
    assert torch.equal(before.weights, after.weights)
    assert not torch.allclose(model.score(TOKENS, context=4), dressed.score(TOKENS, context=4))


def test_what_cannot_be_worn_is_refused(library: Library) -> None:
    base = pico_base()
    with pytest.raises(RoutingError, match="Gates, whole models and pruned ensembles wear none"):
        carrier(mix(base, library, router=arrow()))
    with pytest.raises(RoutingError, match="leave prune out"):
        carrier(ensemble(base, library, router=posterior(), prune=1e-3))
    with pytest.raises(UnknownName):
        wearing(base, "nobody")
    dressed = worn(base)
    with pytest.raises(RoutingError, match="'worn' is worn by the base already"):
        dressed.logprobs_rows(TOKENS, plan=RowPlan.one("worn"))
