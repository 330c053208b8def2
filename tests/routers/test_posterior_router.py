import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, RouterRecipe
from collegium.ops.posterior import mix_log_probs
from collegium.routers import PosteriorRouter, cached_prior, fit_cached_prior, fixed, posterior, uniform
from collegium.testing.router import check_regret_bound, check_router
from collegium.testing.shelf import MemoryShelf

EXPERTS = ("law", "code", "chat")


def context(rows: int) -> Context:
    return Context(torch.zeros(rows, 1, dtype=torch.long), torch.ones(rows, dtype=torch.long))


def prior_of(recipe: RouterRecipe, *, shelf: MemoryShelf | None = None) -> dict[str, float]:
    router = recipe.bind(EXPERTS, shelf=shelf)
    nothing = torch.zeros(1, 1, len(router.experts))
    routing, _ = router.step(router.start(context(1)), torch.zeros(1, 1, dtype=torch.long), nothing)
    return dict(zip(router.experts, routing.weights[0, 0].tolist(), strict=True))


@pytest.mark.parametrize(
    "recipe",
    [
        posterior(),
        posterior(decay=0.9),
        posterior(decay=0.0),
        posterior({"law": 3.0, "code": 1.0}),
        posterior({"law": 1.0, "base": 1.0}),
        posterior(uniform()),
        posterior(fixed({"law": 0.7})),
        posterior(fixed({"base": 1.0})),
    ],
)
def test_it_keeps_the_contract(recipe: RouterRecipe):
    check_router(recipe)


@pytest.mark.parametrize(
    "recipe", [posterior(), posterior({"law": 1.0}), posterior(fixed({"law": 1.0})), posterior({"base": 1.0})]
)
def test_it_keeps_the_regret_bound(recipe: RouterRecipe):
    check_regret_bound(recipe)


def nats_of(recipe: RouterRecipe, likelihoods: torch.Tensor) -> torch.Tensor:
    """NLL of each sequence under the mixture; nothing is predicted at the first token."""
    names = tuple(f"expert-{place}" for place in range(likelihoods.shape[-1]))
    router = recipe.bind(names)
    tokens = torch.zeros(likelihoods.shape[:2], dtype=torch.long)
    routing, _ = router.step(router.start(context(len(tokens))), tokens, likelihoods)
    return -mix_log_probs(routing.log_weights()[:, :-1], likelihoods[:, 1:]).sum(dim=1)


@st.composite
def sequences(draw: st.DrawFn) -> torch.Tensor:
    """One sequence's log-likelihoods in float64, of any size the search likes."""
    shape = draw(st.integers(2, 12)), draw(st.integers(2, 5))
    number = st.floats(-30, 0, allow_nan=False)
    rows = draw(st.lists(st.lists(number, min_size=shape[1], max_size=shape[1]), min_size=shape[0], max_size=shape[0]))
    likelihoods = torch.tensor([rows], dtype=torch.float64)
    likelihoods[:, 0] = 0.0
    return likelihoods


@given(likelihoods=sequences())
def test_claim_m3_nobody_is_beaten_by_more_than_the_price_of_the_prior(likelihoods: torch.Tensor):
    """NLL <= min_j [NLL_j + log 1/pi_j], for every sequence."""
    experts = likelihoods.shape[-1]
    bound = -likelihoods.sum(dim=1).amax(dim=-1) + math.log(experts)
    assert bool((nats_of(posterior(), likelihoods) <= bound + 1e-5).all())


@given(likelihoods=sequences())
def test_the_cumulative_mixture_is_the_mixture_over_whole_texts(likelihoods: torch.Tensor):
    """Equality behind the bound: the product of mixtures is the mixture of products."""
    whole = -(likelihoods.sum(dim=1).logsumexp(dim=-1) - math.log(likelihoods.shape[-1]))
    torch.testing.assert_close(nats_of(posterior(), likelihoods), whole, atol=1e-4, rtol=1e-5)


def test_the_one_token_posterior_breaks_claim_m3():
    """Two experts are right in turns: who predicted the last token best is the worse one for the next."""
    turns = torch.arange(31)[:, None] % 2 == torch.arange(2)
    likelihoods = torch.where(turns, -3.0, -0.1)[None].double()
    likelihoods[:, 0] = 0.0
    bound = float(-likelihoods.sum(dim=1).amax(dim=-1)) + math.log(2)
    assert float(nats_of(posterior(), likelihoods)) <= bound
    assert float(nats_of(posterior(decay=0.0), likelihoods)) > bound + 10


@given(seed=st.integers(0, 2**31))
def test_claim_m6_a_further_expert_costs_at_most_the_price_of_its_share(seed: int):
    drawn = -torch.randn(8, 20, 4, generator=torch.Generator().manual_seed(seed)).abs().double()
    drawn[:, 0] = 0.0
    larger, smaller = nats_of(posterior(), drawn), nats_of(posterior(), drawn[..., :3])
    assert bool((larger <= smaller + math.log(4 / 3) + 1e-5).all())


def test_prior_weights_are_normalised_and_none_is_below_a_hundredth_of_its_share():
    found = prior_of(posterior({"law": 30.0, "code": 10.0}))
    least = 0.01 / 3
    total = 0.75 + 0.25 + least
    assert found == pytest.approx({"law": 0.75 / total, "code": 0.25 / total, "chat": least / total})


def test_base_is_among_the_experts_when_the_prior_names_it():
    found = prior_of(posterior({"law": 0.25, "code": 0.25, "chat": 0.25, "base": 0.25}))
    assert found == pytest.approx(dict.fromkeys((*EXPERTS, "base"), 0.25))


def test_a_recipes_weights_are_the_prior_and_its_weight_on_base_is_shared():
    assert prior_of(posterior(fixed({"base": 1.0}))) == pytest.approx(prior_of(posterior()))
    found = prior_of(posterior(fixed({"law": 0.4})))
    assert found == pytest.approx({"law": 0.6, "code": 0.2, "chat": 0.2})


def test_a_cached_prior_can_be_the_prior(shelf: MemoryShelf):
    likelihoods = torch.log(torch.tensor([[0.6, 0.3, 0.1]]))
    fit_cached_prior(shelf, log_likelihoods=likelihoods, experts=EXPERTS)
    recipe = posterior(prior=cached_prior(alpha=1.0))
    assert prior_of(recipe, shelf=shelf) == pytest.approx({"law": 0.6, "code": 0.3, "chat": 0.1})


def test_decay_forgets():
    likelihoods = torch.zeros(1, 30, 2)
    likelihoods[0, 1:20, 0], likelihoods[0, 20:, 1] = -1.0, -1.0  # law is worse for long, then better
    last: dict[float, float] = {}
    for decay in (1.0, 0.5):
        router = posterior(decay=decay).bind(("law", "code"))
        routing, _ = router.step(router.start(context(1)), torch.zeros(1, 30, dtype=torch.long), likelihoods)
        last[decay] = float(routing.weights[0, -1, 0])
    assert last[1.0] < 0.5
    assert last[0.5] > 0.8


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"decay": 1.5}, "decay"),
        ({"decay": float("nan")}, "decay"),
        ({"prior": {"law": -1.0}}, "not negative"),
        ({"prior": {"law": 0.0}}, "not all 0"),
        ({"prior": {"law": float("inf")}}, "finite"),
    ],
)
def test_bad_arguments_are_refused(arguments: dict, says: str):
    with pytest.raises(RoutingError, match=says):
        posterior(**arguments)


def test_priors_that_do_not_fit_are_refused():
    with pytest.raises(RoutingError, match="Did you mean 'law'"):
        posterior({"laww": 1.0}).bind(EXPERTS)
    with pytest.raises(RoutingError, match="needs likelihoods"):
        posterior(posterior()).bind(EXPERTS)


def test_likelihoods_are_asked_for_by_number():
    router = posterior().bind(EXPERTS)
    assert isinstance(router, PosteriorRouter)
    tokens = torch.zeros(1, 2, dtype=torch.long)
    with pytest.raises(RoutingError, match="3 experts, got none"):
        router.step(router.start(context(1)), tokens, None)
    with pytest.raises(RoutingError, match="3 experts, got those of 2"):
        router.step(router.start(context(1)), tokens, torch.zeros(1, 2, 2))
