"""Branch, train, merge with whole models."""

import dataclasses
from collections.abc import Mapping

import pytest
import torch

from collegium.core.errors import ConfigError, RoutingError
from collegium.data import Document, Domain
from collegium.experts import Expert, WholePayload, open_whole
from collegium.experts.recipe import FitConfig
from collegium.experts.whole_fit import branch, branch_shares, fit_whole
from collegium.models import Base
from collegium.testing.pico import pico_base

CONFIG = FitConfig(steps=8, batch=2, window=32, evaluate_every=4, learning_rate=3e-3, dev_tokens=256)
LAW = Domain("law", tuple(Document(text=f"Article {n}. The court finds for tenant {n}. " * 4) for n in range(9)))
CODE = Domain("code", tuple(Document(text=f"def f{n}(x):\n    return x + {n}\n" * 6) for n in range(9)))


def state(expert: Expert) -> dict[str, torch.Tensor]:
    assert isinstance(expert.payload, WholePayload)
    return expert.payload.model.state_dict()


def equal(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def in_dtype(dtype: torch.dtype) -> Base:
    base = pico_base()
    return Base.from_model(base.model.to(dtype), base.tokenizer, name="pico", fingerprint=base.fingerprint)


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


class Interrupting:
    """A logger that ends the fit after its sixth step, as Ctrl-C would."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        if step == 6 and "loss" in values:
            raise KeyboardInterrupt

    def close(self) -> None:
        """Nothing is held back."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_steps_and_steps_more_equal_all_steps_at_once(experts, tmp_path, dtype):
    base = in_dtype(dtype)
    with pytest.raises(KeyboardInterrupt):
        fit_whole(base, CODE, config=CONFIG, parents=experts, checkpoint=tmp_path, logger=Interrupting())
    assert (tmp_path / "step-00000006").is_dir()
    resumed = fit_whole(base, CODE, config=CONFIG, parents=experts, checkpoint=tmp_path)
    straight = fit_whole(base, CODE, config=CONFIG, parents=experts)
    assert resumed.history == straight.history
    assert equal(state(resumed.expert), state(straight.expert))
    assert {tensor.dtype for tensor in state(straight.expert).values()} == {torch.float32}
    with pytest.raises(ConfigError, match="another configuration"):
        fit_whole(base, CODE, config=CONFIG, parents=experts[:1], checkpoint=tmp_path)


def test_a_base_in_bfloat16_gives_whole_models_in_float32_whose_norms_move():
    base = in_dtype(torch.bfloat16)
    slow = dataclasses.replace(CONFIG, learning_rate=2e-4)  # less than half a step of a bfloat16 near one
    trained = fit_whole(base, LAW, config=slow).expert
    norms = state(trained)["model.norm.weight"]
    assert norms.dtype == torch.float32
    assert (norms != base.model.state_dict()["model.norm.weight"].float()).all()
    assert trained.card.recipe["dtype"] == "bfloat16"
    assert base.dtype == torch.bfloat16


def test_a_whole_model_in_memory_stays_in_float32_when_a_base_in_bfloat16_opens_it(experts):
    before = {name: tensor.clone() for name, tensor in state(experts[0]).items()}
    assert {tensor.dtype for tensor in before.values()} == {torch.float32}
    assert open_whole(experts[0], in_dtype(torch.bfloat16)).dtype == torch.bfloat16
    assert all(torch.equal(tensor, before[name]) for name, tensor in state(experts[0]).items())
    assert state(experts[0])["model.norm.weight"].dtype == torch.float32


def test_default_weights_are_even_and_all_alike():
    assert branch_shares((), None) == {"base": 1.0}


@pytest.mark.parametrize("weights", [{"lav": 1.0}, {"law": -1.0, "code": 2.0}, {"law": 0.0}])
def test_wrong_weights_are_refused(experts, weights):
    with pytest.raises(RoutingError):
        branch_shares(experts, weights)


def test_even_shares(experts):
    assert branch_shares(experts, None) == {"law": 0.5, "code": 0.5}
