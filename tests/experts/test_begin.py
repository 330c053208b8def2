"""Laws of beginning with an expert: the copy alone is trained, the expert and the base stay as they are, to the bit."""

import dataclasses

import pytest
import torch
from torch import Tensor

from collegium.core.errors import ConfigError, IncompatibleExpert
from collegium.data import Document, Domain
from collegium.experts import Expert, FitConfig, Trained, fit_documents, fit_expert
from collegium.experts.begin import copied_adapter, settings_like
from collegium.experts.objective import Texts
from collegium.models import KINDS, Base
from collegium.testing.pico import pico_base, random_expert

CONFIG = FitConfig(kind="ffn", steps=6, batch=2, window=32, evaluate_every=3, learning_rate=3e-3, dev_tokens=128)
LAW = Domain("law", tuple(Document(text=f"Article {n}. The court finds for tenant {n}. " * 4) for n in range(9)))
CODE = Domain("code", tuple(Document(text=f"def f{n}(x):\n    return x + {n}\n" * 6) for n in range(9)))


def tensors(expert: Expert) -> dict[str, Tensor]:
    return {
        f"{path} {key}": each for path, part in expert.payload.adapter.items() for key, each in part.tensors.items()
    }


def further(base: Base, parent: Expert, config: FitConfig = CONFIG) -> Trained:
    texts = Texts.of(CODE)
    return fit_documents(base, texts.train, dev=texts.dev, config=config, name="code", begin=parent)


@pytest.mark.parametrize("kind", KINDS)
def test_the_copy_learns_and_its_parent_and_the_base_stay_to_the_bit(kind):
    base, parent = pico_base(), random_expert(pico_base(), kind=kind, name="law")
    config = dataclasses.replace(CONFIG, kind=kind)
    before, weights = tensors(parent), {name: each.clone() for name, each in base.model.state_dict().items()}
    before = {name: each.clone() for name, each in before.items()}
    done = further(base, parent, config)
    assert all(torch.equal(each, before[name]) for name, each in tensors(parent).items())
    assert all(torch.equal(each, weights[name]) for name, each in base.model.state_dict().items())
    child = done.expert
    assert child.card.parents == {"law": parent.digest}
    assert child.card.kind == kind
    assert tensors(child).keys() == before.keys()
    assert done.history.evaluations[-1].loss < done.history.evaluations[0].loss
    assert any(not torch.equal(each, before[name]) for name, each in tensors(child).items())


def test_before_its_first_step_the_copy_says_what_its_parent_says():
    base = pico_base()
    parent = fit_expert(base, LAW, config=CONFIG)
    copy = copied_adapter(base, parent)
    assert {path: set(part.tensors) for path, part in copy.items()} == {
        path: set(part.tensors) for path, part in parent.payload.adapter.items()
    }
    assert all(
        torch.equal(copy[path].tensors[key], each)
        for path, part in parent.payload.adapter.items()
        for key, each in part.tensors.items()
    )
    start = further(base, parent).history.evaluations[0].loss
    fresh = fit_expert(base, CODE, config=CONFIG)
    assert start != pytest.approx(further(base, fresh).history.evaluations[0].loss)


def test_the_law_rejects_training_the_parent_itself(monkeypatch):
    base = pico_base()
    parent = fit_expert(base, LAW, config=CONFIG)
    before = {name: each.clone() for name, each in tensors(parent).items()}

    def itself(base: Base, expert: Expert) -> object:
        for part in expert.payload.adapter.values():
            for each in part.tensors.values():
                each.requires_grad_()
        return expert.payload.adapter

    monkeypatch.setattr("collegium.experts.fit.copied_adapter", itself)
    further(base, parent)
    assert not all(torch.equal(each, before[name]) for name, each in tensors(parent).items())


def test_sizes_are_the_parents_and_others_are_refused():
    base = pico_base()
    small = dataclasses.replace(CONFIG, kind="lora", rank=3, layers=(1,), targets=("q_proj",))
    parent = fit_expert(base, LAW, config=small)
    plain = dataclasses.replace(CONFIG, kind="lora")
    assert settings_like(parent, plain) == dataclasses.replace(small, alpha=6.0)
    assert further(base, parent, plain).expert.card.recipe["rank"] == 3
    with pytest.raises(ConfigError, match=r"has its rank, 3; got 5"):
        settings_like(parent, dataclasses.replace(plain, rank=5))
    with pytest.raises(IncompatibleExpert, match="give --kind lora"):
        settings_like(parent, CONFIG)


def test_an_expert_of_another_base_and_a_judge_are_refused():
    base = pico_base()
    with pytest.raises(IncompatibleExpert, match="was made for base"):
        further(base, random_expert(pico_base(1), kind="ffn"))
    whole = random_expert(base)
    judge = dataclasses.replace(whole.card, task="classification")
    object.__setattr__(whole, "card", judge)
    with pytest.raises(IncompatibleExpert, match="small language experts alone"):
        copied_adapter(base, whole)
