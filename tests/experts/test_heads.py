"""Heads beside low-rank adapters, against the real `peft` and transformers' sequence classification."""

import json
from dataclasses import replace

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaForSequenceClassification

from collegium.core.cards import ExpertCard
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.experts import Expert, adapter_payload, load_expert, read_peft, save_expert
from collegium.experts.peft_folder import write_peft
from collegium.models import HeadWeights
from collegium.testing.pico import random_adapter, random_base

pytestmark = pytest.mark.filterwarnings(
    # PEFT asks transformers a question that transformers has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)


def head(base, labels=1):
    draw = torch.Generator().manual_seed(3)
    return HeadWeights(torch.randn(labels, base.config.hidden_size, generator=draw))


def judge(base, **fields):
    card = ExpertCard(name="judge", kind="lora", task="reward", base=base.fingerprint, **fields)
    return Expert(card, adapter_payload(base, random_adapter(base), head=head(base)))


def classifier(base, labels=1):
    """transformers' own sequence classification over a base's decoder."""
    config = type(base.config)(**{**base.config.to_dict(), "num_labels": labels, "pad_token_id": 0})
    model = LlamaForSequenceClassification(config)
    model.model.load_state_dict(base.inner.state_dict())
    return model.eval()


@pytest.fixture
def theirs(tmp_path):
    """A folder that PEFT wrote: adapter and head of a sequence classification model."""
    base = random_base("llama")
    config = peft.LoraConfig(task_type="SEQ_CLS", target_modules=["q_proj", "down_proj"], r=4)
    model = peft.get_peft_model(classifier(base), config)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name or "modules_to_save" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.2
    model.save_pretrained(tmp_path / "theirs")
    return base, tmp_path / "theirs", model.eval()


def test_what_peft_saved_is_read_with_its_head(theirs):
    base, folder, model = theirs
    found = read_peft(folder, base)
    own = model.base_model.model.score.modules_to_save["default"].weight
    assert found.card.task == "reward"
    assert torch.equal(found.payload.head.weight, own)


def test_what_we_save_is_read_by_peft_with_its_head(tmp_path):
    base = random_base("llama")
    expert = judge(base)
    write_peft(expert, tmp_path / "ours", base)
    model = peft.PeftModel.from_pretrained(classifier(base), tmp_path / "ours")
    assert torch.equal(model.base_model.model.score.modules_to_save["default"].weight, expert.payload.head.weight)
    part = expert.payload.lora["model.layers.1.self_attn.q_proj"]
    layer = model.base_model.model.model.layers[1].self_attn.q_proj
    assert torch.allclose(layer.get_delta_weight("default"), part.delta(), atol=1e-6)


def test_a_judge_comes_back_from_its_folder_to_the_last_bit(tmp_path):
    base = random_base("llama")
    expert = judge(base, constants={"mean": 0.25, "pooling": "last"})
    save_expert(expert, tmp_path / "judge")
    back = load_expert(tmp_path / "judge", base=base.fingerprint, sites=base.sites)
    assert torch.equal(back.payload.head.weight, expert.payload.head.weight)
    assert back.card.constants == {"mean": 0.25, "pooling": "last"}
    assert back.payload.parameters == expert.payload.parameters
    assert back.digest == expert.digest


def test_another_head_is_another_expert():
    base = random_base("llama")
    expert = judge(base)
    other = replace(expert.payload, head=HeadWeights(expert.payload.head.weight + 1))
    assert Expert(expert.card, other).digest != expert.digest


def test_a_classifier_with_several_outputs_and_a_bias(tmp_path):
    base = random_base("llama")
    wide = HeadWeights(head(base, 3).weight, torch.tensor([1.0, 2.0, 3.0]), "classifier")
    card = ExpertCard(name="kinds", kind="lora", task="classification", base=base.fingerprint)
    save_expert(Expert(card, adapter_payload(base, random_adapter(base), head=wide)), tmp_path / "kinds")
    back = load_expert(tmp_path / "kinds", base=base.fingerprint, sites=base.sites).payload.head
    pooled = torch.randn(2, base.config.hidden_size)
    assert torch.equal(back(pooled), pooled @ wide.weight.T + wide.bias)


def test_an_adapter_without_its_head_is_refused(theirs):
    base, folder, _ = theirs
    tensors = load_file(folder / "adapter_model.safetensors")
    save_file({name: each for name, each in tensors.items() if "lora_" in name}, folder / "adapter_model.safetensors")
    with pytest.raises(IncompatibleExpert, match=r"asks for one head .* holds none"):
        read_peft(folder, base)


def test_a_head_that_nobody_announced_is_refused(theirs):
    base, folder, _ = theirs
    config = json.loads((folder / "adapter_config.json").read_text())
    config |= {"task_type": "SEQ_CLS", "modules_to_save": ["classifier"]}
    (folder / "adapter_config.json").write_text(json.dumps(config))
    with pytest.raises(IncompatibleExpert, match=r"holds \['score'\]"):
        read_peft(folder, base)


def test_a_head_of_an_odd_shape_is_refused(theirs):
    base, folder, _ = theirs
    tensors = load_file(folder / "adapter_model.safetensors")
    tensors["base_model.model.score.weight"] = torch.ones(5)
    save_file(tensors, folder / "adapter_model.safetensors")
    with pytest.raises(CorruptExpert, match="no linear layer"):
        read_peft(folder, base)


def test_a_head_that_is_not_finite_is_refused(tmp_path):
    base = random_base("llama")
    expert = judge(base)
    spoilt = replace(expert.payload, head=HeadWeights(expert.payload.head.weight * torch.nan))
    with pytest.raises(CorruptExpert, match="holds NaN"):
        save_expert(Expert(expert.card, spoilt), tmp_path / "judge")


@pytest.mark.parametrize(
    ("task", "kind", "given", "says"),
    [
        ("language", "lora", True, "a language expert does not use"),
        ("reward", "lora", False, "has no head"),
        ("reward", "ia3", True, "kept beside a low-rank adapter"),
    ],
)
def test_a_head_belongs_to_a_low_rank_judge_alone(task, kind, given, says):
    base = random_base("llama")
    card = ExpertCard(name="judge", kind=kind, task=task, base=base.fingerprint)
    payload = adapter_payload(base, random_adapter(base, kind=kind), head=head(base) if given else None)
    with pytest.raises(IncompatibleExpert, match=says):
        Expert(card, payload)
