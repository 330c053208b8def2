"""Routed reward models: exact laws of routing, switching, averaging and growing."""

from dataclasses import replace

import pytest
import torch

from collegium.core.errors import ConfigError
from collegium.core.protocols import Feature
from collegium.core.samples import Sample
from collegium.rewards import DESIGNS, open_reward
from collegium.rewards.judges import AdapterJudges
from collegium.rewards.routers import ABSTAIN, choices
from collegium.rewards.texts import Encoder, batch_of, encode_all

ROUTED = [name for name, row in DESIGNS.items() if row.grows]


@pytest.mark.parametrize("design", DESIGNS)
def test_a_reward_model_is_a_feature_with_one_finite_number_a_sample(model, samples, design):
    found = model(design)
    assert isinstance(found, Feature)
    rewards = found(samples)
    assert rewards.shape == (len(samples),)
    assert rewards.dtype == torch.float32
    assert bool(rewards.isfinite().all())
    assert found([]).shape == (0,)


@pytest.mark.parametrize("design", DESIGNS)
def test_a_reward_does_not_depend_on_the_other_samples(model, samples, design):
    found = model(design)
    together = found(samples)
    alone = torch.cat([found([each]) for each in samples[:5]])
    assert torch.allclose(together[:5], alone, atol=1e-4)


@pytest.mark.parametrize("design", [name for name in DESIGNS if name != "joint"])
def test_whose_reward_it_is_depends_on_the_prompt_alone(model, samples, design):
    found = model(design)
    swapped = [Sample(each.prompt, other.completion) for each, other in zip(samples, reversed(samples), strict=True)]
    first, second = found.judge(samples), found.judge(swapped)
    assert torch.equal(first.choice, second.choice)
    if first.routes is not None:
        assert torch.allclose(first.routes, second.routes, atol=1e-5)


@pytest.mark.parametrize("design", ROUTED)
def test_a_routed_reward_is_the_chosen_judges_own(model, samples, design):
    found = model(design)
    said = found.judge(samples)
    for name in found.domains:
        mine = [row for row, choice in enumerate(said.choice.tolist()) if choice == found.domains.index(name)]
        own = found.judge(samples, by=name).rewards
        assert torch.allclose(said.rewards[mine], own[mine], atol=1e-5)


def test_switching_adapters_is_lossless(base, library, model, samples):
    """R7: the reward model's judge of a domain is the same adapter evaluated alone, to the last bit."""
    found = model("arliss")
    for name in found.domains:
        expert = library[f"arliss-{name}"]
        alone = open_reward(base, library, expert.name)
        assert torch.equal(found.judge(samples, by=name).rewards, alone(samples))


def test_a_shared_trunk_changes_no_bit(base, library, model, samples, monkeypatch):
    found = model("arliss")
    assert isinstance(found.judges, AdapterJudges)
    assert found.judges.first == 1
    shared = found.judge(samples)
    monkeypatch.setattr("collegium.rewards.model.AdapterRouter", type(None))
    apart = found.judge(samples)
    assert torch.equal(shared.rewards, apart.rewards)
    assert torch.allclose(shared.routes, apart.routes, atol=1e-6)


@pytest.mark.parametrize("design", ROUTED)
def test_abstaining_gives_the_mean_of_all_standardised_judges(model, samples, design):
    found = replace(model(design), threshold=1.1)
    said = found.judge(samples)
    assert said.choice.tolist() == [ABSTAIN] * len(samples)
    each = torch.stack([found.judge(samples, by=name).rewards for name in found.domains], dim=1)
    assert torch.allclose(said.rewards, each.mean(1), atol=1e-5)
    assert torch.allclose(replace(model(design), route="average")(samples), said.rewards, atol=1e-6)


@pytest.mark.parametrize("design", DESIGNS)
def test_standardised_is_raw_less_the_mean_over_the_deviation(model, samples, design):
    found = model(design)
    for number, name in enumerate(found.domains):
        raw, shown = (found.judge(samples, by=name, raw=raw).rewards for raw in (True, False))
        mean, deviation = found.standards.mean[number], found.standards.deviation[number]
        assert torch.allclose(shown, (raw - mean) / deviation, atol=1e-5)


@pytest.mark.parametrize("design", [*ROUTED, "joint"])
def test_a_judges_dev_answers_have_mean_nought_and_deviation_one(model, corpus, design):
    found = model(design)
    domains = [[corpus[name]] for name in corpus.names] if design != "joint" else [list(corpus)]
    for name, own in zip(found.domains, domains, strict=True):
        answers = [sample for domain in own for pair in domain.split().dev for sample in pair.samples]
        rewards = found.judge(answers, by=name).rewards
        assert abs(float(rewards.mean())) < 1e-3
        assert abs(float(rewards.std(unbiased=False)) - 1) < 1e-3


def test_parameters_are_counted_exactly(base, library, model):
    """R4: in memory ARLISS < RODOS, and ARLISS is the base and little more."""
    whole = sum(each.numel() for each in base.inner.parameters())
    arliss, rodos, joint = (model(name) for name in ("arliss", "rodos", "joint"))
    adapters = sum(library.card(name).trained_parameters for name in library.names() if name.startswith("arliss-"))
    assert arliss.parameters_resident == whole + adapters
    assert whole < arliss.parameters_active < arliss.parameters_resident < rodos.parameters_resident
    assert joint.parameters_resident == whole + library.card("joint-joint").trained_parameters
    assert rodos.parameters_resident > 3 * whole


@pytest.mark.parametrize("design", ROUTED)
def test_what_routing_loses_is_what_misrouting_loses(model, corpus, design):
    """R5: acc_oracle - acc_routed = (1/N) sum over misrouted pairs of (oracle - routed right) <= misrouted / N."""
    found = replace(model(design), threshold=0.0)
    lost = misrouted = total = correct = best = 0
    for domain in corpus:
        said = found.judge([sample for pair in domain.pairs for sample in pair.samples], every=True)
        own = said.every[:, found.domains.index(domain.name)]
        for row in range(0, len(said.rewards), 2):
            oracle, routed = own[row] > own[row + 1], said.rewards[row] > said.rewards[row + 1]
            total, correct, best = total + 1, correct + int(routed), best + int(oracle)
            if int(said.choice[row]) != found.domains.index(domain.name):
                misrouted += 1
                lost += int(oracle) - int(routed)
    assert best - correct == lost <= misrouted
    assert total == 180


def test_choices_abstain_below_the_threshold_alone():
    probabilities = torch.tensor([[0.7, 0.3], [0.4, 0.6], [0.5, 0.5]])
    assert choices(probabilities.log(), 0.6).tolist() == [0, 1, ABSTAIN]
    assert choices(probabilities.log(), 0.0).tolist()[:2] == [0, 1]


def test_an_unknown_judge_is_refused(model, samples):
    with pytest.raises(ConfigError, match="no judge 'laws'"):
        model("arliss").judge(samples, by="laws")


def test_the_chosen_rows_of_one_forward_are_each_judges_own(base, model, samples):
    judges = model("arliss").judges
    batch = batch_of(encode_all(samples, Encoder(base, 48)))
    index = torch.arange(len(samples)) % 3
    with torch.no_grad():
        every, chosen = judges.every(batch), judges.chosen(batch, index)
    assert torch.allclose(chosen, every.gather(1, index[:, None])[:, 0], atol=1e-5)
