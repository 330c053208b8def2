"""Branch, train, merge with whole models."""

import dataclasses

import pytest
import torch

from collegium.core.errors import ConfigError, RoutingError
from collegium.data import Document, Domain
from collegium.experts import Expert, WholePayload, open_whole
from collegium.experts.recipe import FitConfig
from collegium.experts.whole_fit import branch, branch_shares, fit_whole

CONFIG = FitConfig(steps=8, batch=2, window=32, evaluate_every=4, learning_rate=3e-3, dev_tokens=256)
LAW = Domain("law", tuple(Document(text=f"Article {n}. The court finds for tenant {n}. " * 4) for n in range(9)))
CODE = Domain("code", tuple(Document(text=f"def f{n}(x):\n    return x + {n}\n" * 6) for n in range(9)))


def state(expert: Expert) -> dict[str, torch.Tensor]:
    assert isinstance(expert.payload, WholePayload)
    return expert.payload.model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


@pytest.fixture(scope="module")
def experts(_pico_once) -> tuple[Expert, Expert]:
    law, code = (fit_whole(_pico_once, domain, config=CONFIG).expert for domain in (LAW, CODE))
    return law, code


def test_a_branch_learns_its_domain_and_the_base_stays(pico):
    before = {name: tensor.clone() for name, tensor in pico.model.state_dict().items()}
    trained = fit_whole(pico, LAW, config=dataclasses.replace(CONFIG, steps=24))
    evaluations = trained.history.evaluations
    assert min(each.loss for each in evaluations) < evaluations[0].loss - 0.1
    assert equal(before, pico.model.state_dict())
    assert not any(tensor.requires_grad for tensor in pico.model.parameters())
    card = trained.expert.card
    assert (card.kind, card.domain, card.parents) == ("whole", "law", {})
    assert card.recipe["branch"] == {"base": 1.0}
    assert "rank" not in card.recipe
    assert card.trained_parameters == sum(tensor.numel() for tensor in pico.model.parameters())


def test_alone_and_after_others_are_the_same(pico, experts):
    torch.manual_seed(7)
    assert equal(state(experts[1]), state(fit_whole(pico, CODE, config=CONFIG).expert))


def test_a_branch_is_the_weighted_average_of_its_parents(pico, experts):
    model = branch(pico, experts, {"law": 0.25, "code": 0.5, "base": 0.25}, name="new")
    for name, tensor in model.model.state_dict().items():
        parts = (state(experts[0])[name], state(experts[1])[name], pico.model.state_dict()[name])
        want = 0.25 * parts[0].double() + 0.5 * parts[1].double() + 0.25 * parts[2].double()
        torch.testing.assert_close(tensor, want.to(tensor))


def test_one_parent_is_branched_from_to_the_bit_and_recorded(pico, experts):
    law = experts[0]
    start = branch(pico, [law], branch_shares([law], None), name="new")
    assert equal(start.model.state_dict(), state(law))
    trained = fit_whole(pico, CODE, config=CONFIG, parents=experts, weights={"law": 1.0, "code": 0.0}, name="code-2")
    assert trained.expert.card.parents == {"law": law.digest}
    assert trained.expert.card.recipe["branch"] == {"law": 1.0}
    opened = open_whole(law, pico)
    objective_start = trained.history.evaluations[0].loss
    again = fit_whole(opened, CODE, config=CONFIG, name="code-2")
    assert again.history.evaluations[0].loss == objective_start
    assert equal(state(again.expert), state(trained.expert))


def test_resume_and_refusal_of_another_branch(pico, experts, tmp_path):
    whole = fit_whole(pico, CODE, config=CONFIG, parents=experts, checkpoint=tmp_path)
    again = fit_whole(pico, CODE, config=CONFIG, parents=experts, checkpoint=tmp_path)
    assert equal(state(whole.expert), state(again.expert))
    with pytest.raises(ConfigError, match="another configuration"):
        fit_whole(pico, CODE, config=CONFIG, parents=experts[:1], checkpoint=tmp_path)


def test_default_weights_are_even_and_all_alike():
    assert branch_shares((), None) == {"base": 1.0}


@pytest.mark.parametrize("weights", [{"lav": 1.0}, {"law": -1.0, "code": 2.0}, {"law": 0.0}])
def test_wrong_weights_are_refused(experts, weights):
    with pytest.raises(RoutingError):
        branch_shares(experts, weights)


def test_even_shares(experts):
    assert branch_shares(experts, None) == {"law": 0.5, "code": 0.5}
