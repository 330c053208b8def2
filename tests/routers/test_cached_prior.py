import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from collegium.core.errors import RoutingError, StaleRouter
from collegium.core.protocols import Context, PrefixRouter
from collegium.routers import (
    CachedSequences,
    average_posterior,
    cached_prior,
    cached_sequences,
    fit_cached_prior,
    grow_cached_prior,
    posterior,
    shrink_cached_prior,
)
from collegium.testing.router import check_router
from collegium.testing.shelf import MemoryShelf

EXPERTS = ("law", "code", "chat")


def likelihoods(experts: int, *, seed: int = 0) -> torch.Tensor:
    return -5 * torch.rand(20, experts, generator=torch.Generator().manual_seed(seed))


def held(router: PrefixRouter) -> torch.Tensor:
    """The weights before any evidence."""
    context = Context(torch.zeros(1, 1, dtype=torch.long), torch.ones(1, dtype=torch.long))
    nothing = torch.zeros(1, 1, 2) if router.needs_likelihoods else None
    return router.step(router.start(context), context.tokens, nothing)[0].dense()[:, -1]


@pytest.fixture
def fitted(shelf: MemoryShelf) -> MemoryShelf:
    fit_cached_prior(shelf, log_likelihoods=likelihoods(3), experts=EXPERTS)
    return shelf


@pytest.mark.parametrize("recipe", [cached_prior(), posterior(cached_prior())])
def test_it_keeps_the_contract_and_grows_exactly(fitted: MemoryShelf, recipe):
    check_router(
        recipe,
        experts=EXPERTS,
        shelf=fitted,
        grow=lambda: grow_cached_prior(fitted, expert="newcomer", log_likelihoods=likelihoods(1, seed=1)[:, 0]),
        shrink=lambda: shrink_cached_prior(fitted, expert="newcomer"),
    )


def test_adding_and_removing_leaves_the_same_bytes(fitted: MemoryShelf):
    before = fitted.stored["cached_prior"]
    grow_cached_prior(fitted, expert="newcomer", log_likelihoods=likelihoods(1, seed=1)[:, 0])
    assert fitted.stored["cached_prior"] != before
    shrink_cached_prior(fitted, expert="newcomer")
    assert fitted.stored["cached_prior"] == before


@given(seed=st.integers(0, 2**31), alpha=st.floats(0.05, 1.0))
def test_the_average_is_the_papers_recursion(seed: int, alpha: float):
    """Posterior of each text under the average so far, then (1 - alpha) average + alpha posterior."""
    drawn = likelihoods(3, seed=seed).double()
    average = [1 / 3] * 3
    for row in drawn.exp().tolist():
        joint = [weight * likelihood for weight, likelihood in zip(average, row, strict=True)]
        average = [
            (1 - alpha) * weight + alpha * each / sum(joint) for weight, each in zip(average, joint, strict=True)
        ]
    torch.testing.assert_close(average_posterior(drawn, alpha=alpha), torch.tensor(average, dtype=torch.float64))


def test_a_removed_expert_leaves_the_prior_of_those_that_never_had_it(fitted: MemoryShelf):
    shrink_cached_prior(fitted, expert="code")
    fresh = MemoryShelf()
    fit_cached_prior(fresh, log_likelihoods=likelihoods(3)[:, [0, 2]], experts=("law", "chat"))
    assert fitted.stored == fresh.stored


def test_experts_may_be_a_part_of_those_fitted(fitted: MemoryShelf):
    router = cached_prior().bind(("chat", "law"), shelf=fitted)
    assert router.experts == ("chat", "law")


def test_an_expert_far_worse_everywhere_still_has_a_finite_price(shelf: MemoryShelf):
    far = torch.zeros(200, 2)
    far[:, 1] = -1e4
    fit_cached_prior(shelf, log_likelihoods=far, experts=("law", "code"))

    cached = cached_prior().bind(("law", "code"), shelf=shelf)
    assert float(held(cached)[0, 1]) < 1e-6
    router = posterior(cached_prior()).bind(("law", "code"), shelf=shelf)
    assert held(router)[0].tolist() == pytest.approx([0.995, 0.005], abs=1e-3)


def test_unknown_experts_and_absent_fits_say_what_to_do(fitted: MemoryShelf):
    with pytest.raises(StaleRouter, match=r"drama.*grow_cached_prior"):
        cached_prior().bind(("law", "drama"), shelf=fitted)
    with pytest.raises(RoutingError, match=r"never fitted.*fit_cached_prior"):
        cached_prior().bind(EXPERTS, shelf=MemoryShelf())
    with pytest.raises(RoutingError, match="kept with a library"):
        cached_prior().bind(EXPERTS)


def test_a_fit_of_another_router_or_version_is_refused(fitted: MemoryShelf):
    tensors, card = fitted.load_router("cached_prior")
    for changed in ({"router": "cluster"}, {"version": 99}):
        fitted.save_router("cached_prior", tensors, {**card, **changed})
        with pytest.raises(RoutingError, match="is a"):
            cached_prior().bind(EXPERTS, shelf=fitted)


def test_what_does_not_fit_is_refused(fitted: MemoryShelf):
    with pytest.raises(RoutingError, match="20 texts, got 3"):
        grow_cached_prior(fitted, expert="drama", log_likelihoods=torch.zeros(3))
    with pytest.raises(RoutingError, match="Did you mean 'chat'"):
        shrink_cached_prior(fitted, expert="chatt")
    with pytest.raises(RoutingError, match="one column per expert"):
        fit_cached_prior(fitted, log_likelihoods=torch.zeros(3, 2), experts=EXPERTS)
    with pytest.raises(RoutingError, match="finite"):
        fit_cached_prior(fitted, log_likelihoods=torch.full((3, 3), -torch.inf), experts=EXPERTS)
    with pytest.raises(RoutingError, match="alpha"):
        cached_prior(alpha=0.0)


def test_another_expert_of_a_removed_ones_name_does_not_get_its_row(fitted: MemoryShelf):
    fitted.digests["law"] = "another payload"
    with pytest.raises(StaleRouter, match="law"):
        cached_prior().bind(EXPERTS, shelf=fitted)
    grow_cached_prior(fitted, expert="law", log_likelihoods=likelihoods(1, seed=1)[:, 0])
    cached_prior().bind(EXPERTS, shelf=fitted)


def test_the_texts_behind_it_come_back_whoever_came_and_went(fitted: MemoryShelf):
    with pytest.raises(RoutingError, match="log-likelihoods alone"):
        cached_sequences(fitted)
    tokens, lengths = torch.arange(60).view(20, 3), torch.tensor([3, 2] * 10)
    sequences = CachedSequences(tokens, lengths, ("law", "chat") * 10)
    fit_cached_prior(fitted, log_likelihoods=likelihoods(3), experts=EXPERTS, sequences=sequences)
    grow_cached_prior(fitted, expert="tokens", log_likelihoods=likelihoods(1, seed=1)[:, 0])
    shrink_cached_prior(fitted, expert="law")
    found = cached_sequences(fitted)
    assert torch.equal(found.tokens, tokens)
    assert torch.equal(found.lengths, lengths)
    assert found.domains == sequences.domains
    assert fitted.load_router("cached_prior")[1]["first"] == ["chat", "law"]
