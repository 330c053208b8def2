"""Every row of the table against exact gradients on an enumerable model."""

import pytest
import torch

from collegium.align.methods import METHODS, Signals, advantages
from collegium.testing.text_world import TextWorld

MATCHING = [name for name, method in METHODS.items() if method.matches]


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize("name", MATCHING)
def test_matching_goes_down_its_divergence(name: str, *, on_policy: bool) -> None:
    world = TextWorld(1)
    method = METHODS[name]
    found = world.mean_gradient(method, on_policy=on_policy)
    wanted = -world.gradient_of(world.divergence(method.reward))
    torch.testing.assert_close(found, wanted, atol=1e-8, rtol=0)


@pytest.mark.parametrize("on_policy", [True, False])
@pytest.mark.parametrize(("bare", "based"), [("dpg", "dpg++"), ("gdc", "gdc++")])
def test_the_baseline_is_unbiased(bare: str, based: str, *, on_policy: bool) -> None:
    """Claim D2."""
    world = TextWorld(2, forbids=True)
    one, two = (world.mean_gradient(METHODS[name], on_policy=on_policy) for name in (bare, based))
    torch.testing.assert_close(one, two, atol=1e-8, rtol=0)
    apart = advantages(METHODS[bare], world.signals(on_policy=on_policy))
    assert not torch.allclose(apart, advantages(METHODS[based], world.signals(on_policy=on_policy)))


def test_with_a_baseline_nothing_moves_at_the_optimum() -> None:
    world = TextWorld(3, forbids=True)
    signals = world.signals(on_policy=False, log_policy=world.log_p)
    kept = world.log_p > -torch.inf
    assert float(advantages(METHODS["gdc++"], signals)[kept].abs().max()) < 1e-12
    assert float(advantages(METHODS["gdc"], signals)[kept].min()) > 0


@pytest.mark.parametrize(("name", "reward"), [("reinforce", "reward"), ("reinforce_p", "score")])
def test_maximisers_go_up_the_mean_reward(name: str, reward: str) -> None:
    world = TextWorld(4)
    signals = world.signals(on_policy=True)
    paid = world.reward if reward == "reward" else (world.log_target - signals.log_scale).exp()
    wanted = world.gradient_of((world.log_pi.exp() * paid).sum())
    torch.testing.assert_close(world.mean_gradient(METHODS[name], on_policy=True), wanted, atol=1e-8, rtol=0)


def test_kl_control_goes_down_the_reverse_divergence_to_its_implied_target() -> None:
    """Claim D13: grad E_pi[r - beta ln(pi / a)] = -beta grad KL(pi || p), p proportional to a exp(r / beta)."""
    world = TextWorld(5)
    found = world.mean_gradient(METHODS["kl_control"], on_policy=True)
    direct = world.gradient_of(world.controlled())
    implied = -world.beta * world.gradient_of(world.divergence("reverse_kl"))
    torch.testing.assert_close(direct, implied, atol=1e-8, rtol=0)
    torch.testing.assert_close(found, direct, atol=1e-8, rtol=0)


def test_dpg_is_a_policy_gradient_with_the_reward_of_the_ratio() -> None:
    """Claim D13, second half: R = P / pi, held constant."""
    world = TextWorld(6)
    ratio = (world.log_target - world.log_z - world.log_pi).exp().detach()
    wanted = world.gradient_of((world.log_pi.exp().detach() * ratio * world.log_pi).sum())
    torch.testing.assert_close(world.mean_gradient(METHODS["dpg"], on_policy=True), wanted, atol=1e-8, rtol=0)


def test_others_leave_a_text_itself_out_and_groups_are_prompts() -> None:
    reward, prompt = torch.tensor([1.0, 2.0, 6.0, 5.0, 7.0]), torch.tensor([0, 0, 0, 1, 1])
    nothing = torch.zeros(5)
    signals = Signals(nothing, nothing, nothing, nothing, reward, prompt, nothing)
    assert advantages(METHODS["rloo"], signals).tolist() == [1 - 4.0, 2 - 3.5, 6 - 1.5, 5 - 7.0, 7 - 5.0]
    group = advantages(METHODS["grpo"], signals)
    assert group[:3].mean().item() == pytest.approx(0, abs=1e-6)
    assert group[3:].tolist() == pytest.approx([-1, 1], abs=1e-4)


def test_each_row_says_whether_it_can_bear_a_forbidden_text() -> None:
    unbounded = {name for name, method in METHODS.items() if not method.bounded}
    assert unbounded == {"fdpg-reverse_kl", "fdpg-reverse_chi2"}
    world = TextWorld(7, forbids=True)
    for name, method in METHODS.items():
        if method.baseline != "value":
            assert bool(advantages(method, world.signals(on_policy=True)).isfinite().all()) == method.bounded, name
