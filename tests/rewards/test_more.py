"""MoRE: who is used is told, losses of balance enter the fit, wrong gates are refused."""

from dataclasses import replace

import pytest
import torch
from small_rewards import QUICK

from collegium.core.errors import ConfigError, CorruptExpert
from collegium.library import Library
from collegium.models import OpenTrace
from collegium.ops.evenness import balance_loss, mutual_information_loss
from collegium.rewards import DesignOptions, Making, open_reward
from collegium.rewards.more import fit_more, penalty_of


@pytest.fixture
def making(base, corpus, tmp_path):
    return Making(base, Library(tmp_path / "library", base=base), corpus, "judge", config=QUICK)


def test_usage_is_a_share_of_the_choices_in_each_layer(model, samples):
    used = model("more").usage(samples)
    assert used.shape == (2, 3)
    assert torch.allclose(used.sum(-1), torch.ones(2))
    assert bool((used >= 0).all())
    assert model("arliss").usage(samples) is None


def test_usage_does_not_depend_on_padding(model, samples):
    together = model("more").usage(samples[:4])
    tokens = torch.stack([model("more").usage([each]) for each in samples[:4]])
    lengths = torch.tensor([float(len(f"{each.prompt}{each.completion}")) for each in samples[:4]])
    assert torch.allclose((tokens * lengths[:, None, None]).sum(0) / lengths.sum(), together, atol=1e-5)


def test_the_penalty_is_the_mean_over_layers_of_the_weighted_losses():
    draw = torch.Generator().manual_seed(0)
    trace, domains = OpenTrace(), torch.tensor([0, 1, 1])
    trace.read = torch.arange(5) < torch.tensor([5, 3, 4, 5, 2, 5])[:, None]
    for path in ("first", "second"):
        trace.probabilities[path] = torch.rand(6, 5, 4, generator=draw).softmax(-1)
        trace.said[path] = (torch.rand(6, 5, 2, generator=draw), torch.randint(4, (6, 5, 2), generator=draw))
    found = penalty_of(DesignOptions(balance=0.5, information=2.0))(trace, domains)
    own = torch.tensor([0, 0, 1, 1, 1, 1])[:, None].expand(6, 5)
    wanted = [
        0.5 * balance_loss(trace.probabilities[path], trace.said[path][1], read=trace.read)
        + 2.0 * mutual_information_loss(trace.probabilities[path], own, read=trace.read)
        for path in trace.probabilities
    ]
    assert torch.allclose(found, torch.stack(wanted).mean())
    assert penalty_of(DesignOptions(balance=0.0)) is None


def test_a_balance_loss_changes_what_is_learnt(making, tmp_path):
    fit_more(making)
    other = replace(making, library=Library(tmp_path / "other", base=making.base), options=DesignOptions(balance=5.0))
    fit_more(other)
    name = making.member("experts-1")
    assert making.library.expert_digest(name) != other.library.expert_digest(name)


def test_more_chosen_than_there_are_is_refused(making):
    with pytest.raises(ConfigError, match="4 of 3"):
        fit_more(replace(making, options=DesignOptions(top_k=4)))
    assert not list(making.library)


def test_there_may_be_more_experts_than_domains(making, samples):
    fit_more(replace(making, options=DesignOptions(experts=5))).save(making.library, "judge")
    assert open_reward(making.base, making.library, "judge").usage(samples).shape == (2, 5)


def test_a_gate_that_does_not_fit_is_refused(making):
    fit_more(making).save(making.library, "judge")
    tensors, card = making.library.load_router("judge-routing")
    path = next(iter(tensors))
    making.library.save_router("judge-routing", {**tensors, path: tensors[path][:2]}, card)
    with pytest.raises(CorruptExpert, match="has 3 experts"):
        open_reward(making.base, making.library, "judge")
