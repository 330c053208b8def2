"""uniform, fixed and oracle."""

import pytest
import torch

from collegium.core.errors import RoutingError
from collegium.core.protocols import Context, RouterRecipe
from collegium.core.routing import dense_weights
from collegium.routers import HeldRouter, context_weights, fixed, oracle, posterior, uniform
from collegium.testing.router import check_router

EXPERTS = ("law", "code", "chat")


def held(recipe: RouterRecipe, *, experts=EXPERTS, domains=None, rows: int = 1) -> dict[str, list[float]]:
    router = recipe.bind(experts)
    context = Context(torch.zeros(rows, 2, dtype=torch.long), torch.full((rows,), 2), domains=domains)
    weights = dense_weights(router.step(router.start(context), context.tokens, None)[0], (*experts, "base"))
    assert weights.shape == (rows, 1, len(experts) + 1)
    return {name: weights[:, 0, column].tolist() for column, name in enumerate((*experts, "base"))}


@pytest.mark.parametrize(
    "recipe",
    [uniform(), fixed({"law": 0.5, "code": 0.5}), fixed({"chat": 0.25}), fixed({"base": 1.0}), fixed({})],
)
def test_they_keep_the_contract(recipe: RouterRecipe):
    check_router(recipe)


def test_the_oracle_keeps_the_contract():
    recipe = oracle({"laws": "law", "programs": "code", "talk": "base"})
    check_router(recipe, domains=("laws", "talk", "programs", "laws"))


def test_uniform_is_one_over_the_number_of_experts_and_nothing_for_base():
    assert held(uniform(), experts=("law", "code")) == {"law": [0.5], "code": [0.5], "base": [0.0]}


def test_what_fixed_weights_lack_to_one_goes_to_base():
    assert held(fixed({"law": 0.5, "code": 0.25})) == {"law": [0.5], "code": [0.25], "chat": [0.0], "base": [0.25]}
    assert held(fixed({"law": 0.5, "base": 0.25}))["base"] == [0.5]


def test_fixed_weights_that_fill_the_simplex_need_no_base():
    assert fixed({"law": 0.7, "code": 0.2, "chat": 0.1}).bind(EXPERTS).experts == EXPERTS


@pytest.mark.parametrize(
    ("weights", "says"),
    [
        ({"law": 1.5}, "between 0 and 1"),
        ({"law": -0.1, "code": 0.5}, "between 0 and 1"),
        ({"law": float("nan")}, "between 0 and 1"),
        ({"law": 0.7, "code": 0.7}, "sum to at most 1"),
    ],
)
def test_fixed_weights_off_the_simplex_are_refused(weights: dict[str, float], says: str):
    with pytest.raises(RoutingError, match=says):
        fixed(weights)


def test_fixed_names_the_nearest_of_a_mistyped_expert():
    with pytest.raises(RoutingError, match=r"'laww'.*Did you mean 'law'"):
        fixed({"laww": 1.0}).bind(EXPERTS)


def test_the_oracle_follows_the_true_domain():
    recipe = oracle({"laws": "law", "talk": "base"})
    found = held(recipe, domains=("talk", "laws"), rows=2)
    assert found == {"law": [0.0, 1.0], "code": [0.0, 0.0], "chat": [0.0, 0.0], "base": [1.0, 0.0]}


@pytest.mark.parametrize(("domains", "says"), [(None, "true domain"), (("lawz",), "Did you mean 'laws'")])
def test_the_oracle_needs_a_domain_it_knows(domains: tuple[str, ...] | None, says: str):
    with pytest.raises(RoutingError, match=says):
        held(oracle({"laws": "law"}), domains=domains)


def test_the_oracle_knows_its_experts():
    with pytest.raises(RoutingError, match="Did you mean 'code'"):
        oracle({"programs": "coder"}).bind(EXPERTS)


@pytest.mark.parametrize("experts", [(), ("law", "law"), ("law", "base")])
@pytest.mark.parametrize("recipe", [uniform(), fixed({}), oracle({}), posterior()])
def test_experts_are_some_distinct_and_not_the_base(recipe: RouterRecipe, experts: tuple[str, ...]):
    with pytest.raises(RoutingError, match="each named once"):
        recipe.bind(experts)


def test_a_router_becomes_coarse_by_its_weights_after_the_context():
    router = HeldRouter(("law",), lambda context: torch.ones(context.batch, 1))
    context = Context(torch.zeros(2, 0, dtype=torch.long), torch.zeros(2, dtype=torch.long))
    assert context_weights(router, context, names=("code", "law")).tolist() == [[0.0, 1.0], [0.0, 1.0]]


def test_a_router_that_needs_likelihoods_cannot_decide_from_a_context():
    context = Context(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))
    with pytest.raises(RoutingError, match="likelihoods"):
        context_weights(posterior().bind(EXPERTS), context, names=EXPERTS)
