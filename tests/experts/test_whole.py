"""Whole models as experts: opened as bases of their own, and averaged (Branch-Train-Merge)."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from collegium.core.cards import ExpertCard, Source
from collegium.core.errors import CorruptExpert, IncompatibleExpert, ResourceError, RoutingError
from collegium.experts import (
    Expert,
    WholePayload,
    adapter_payload,
    average_experts,
    average_whole,
    check_expert,
    load_expert,
    load_model,
    open_whole,
    save_expert,
)
from collegium.models import RowPlan
from collegium.testing.pico import random_adapter, random_base, random_classifier

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")
TOKENS = torch.randint(0, 250, (2, 7), generator=torch.Generator().manual_seed(0))


def whole(base, name, seed, **fields):
    card = ExpertCard(name=name, kind="whole", base=base.fingerprint, **fields)
    return Expert(card, WholePayload(random_base(name.split("-")[0], seed).model))


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_saved_model_says_the_same(architecture, tmp_path):
    base = random_base(architecture)
    expert = whole(base, f"{architecture}-one", 1)
    save_expert(expert, tmp_path / "one")
    opened = open_whole(load_expert(tmp_path / "one", base=base.fingerprint), base)
    assert torch.equal(opened.logprobs(TOKENS), random_base(architecture, 1).logprobs(TOKENS))
    assert opened.fingerprint.tokenizer == base.fingerprint.tokenizer
    modes = {path.name: path.stat().st_mode for path in (tmp_path / "one").iterdir()}
    assert len(set(modes.values())) == 1, f"whoever reads one file of an expert reads all: {modes}"


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_all_weight_on_one_model_is_that_model_to_the_bit(architecture):
    models = [random_base(architecture, seed) for seed in range(3)]
    averaged = average_whole(models, [0.0, 0.3, 0.0], name="one")
    assert torch.equal(averaged.logprobs(TOKENS), models[1].logprobs(TOKENS))


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_average_is_the_weighted_mean_of_the_parameters(architecture):
    models = [random_base(architecture, seed) for seed in range(2)]
    averaged = average_whole(models, [3.0, 1.0], name="mean").model.state_dict()
    for name, tensor in averaged.items():
        parts = [model.model.state_dict()[name] for model in models]
        torch.testing.assert_close(tensor, 0.75 * parts[0] + 0.25 * parts[1])
    turned = average_whole(models[::-1], [1.0, 3.0], name="turned").model.state_dict()
    assert all(torch.allclose(tensor, turned[name], atol=1e-7) for name, tensor in averaged.items())


def test_an_average_leaves_its_parts_and_their_experts_alone():
    models = [random_base("llama", seed) for seed in range(2)]
    models[0].attach("guest", random_adapter(models[0]))
    before = models[0].logprobs_rows(TOKENS, plan=RowPlan.one("guest"))
    averaged = average_whole(models, [1.0, 0.0], name="mean")
    assert torch.equal(averaged.logprobs(TOKENS), models[0].logprobs(TOKENS))
    assert averaged.attached == ()
    assert torch.equal(models[0].logprobs_rows(TOKENS, plan=RowPlan.one("guest")), before)


@pytest.mark.parametrize("weights", [[1.0], [0.0, 0.0], [1.0, -1.0], [1.0, float("nan")]])
def test_weights_without_a_sum_are_refused(weights):
    models = [random_base("llama", seed) for seed in range(2)]
    with pytest.raises(RoutingError, match="one weight per model"):
        average_whole(models, weights, name="mean")


def test_other_architectures_are_refused():
    with pytest.raises(IncompatibleExpert, match="one architecture"):
        average_whole([random_base("llama"), random_base("gpt2")], [1.0, 1.0], name="mean")


def test_an_averaged_expert_remembers_its_parents(tmp_path):
    base = random_base("llama")
    first = whole(base, "llama-one", 1, documents={"train": ("a",)}, sources=(Source("web"),))
    second = whole(base, "llama-two", 2, documents={"train": ("b", "a"), "dev": ("c",)}, sources=(Source("web"),))
    save_expert(first, tmp_path / "one")
    kept = load_expert(tmp_path / "one")
    averaged = average_experts([kept, second], [1.0, 3.0], name="mean", base=base)
    assert averaged.card.parents == {"llama-one": first.digest, "llama-two": second.digest}
    assert kept.digest == first.digest, "the checksum is the same before and after saving"
    assert averaged.card.documents == {"train": ("a", "b"), "dev": ("c",)}
    assert averaged.card.sources == (Source("web"),)
    save_expert(averaged, tmp_path / "mean")
    assert open_whole(load_expert(tmp_path / "mean"), base).vocab_size == base.vocab_size


def test_an_adapter_is_no_whole_model():
    base = random_base("llama")
    adapter = Expert(ExpertCard(name="x", kind="lora"), adapter_payload(base, random_adapter(base)))
    with pytest.raises(IncompatibleExpert, match="not a whole model"):
        open_whole(adapter, base)


def test_another_vocabulary_is_refused():
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(vocab_size=99, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=8)
    expert = Expert(ExpertCard(name="x", kind="whole"), WholePayload(LlamaForCausalLM(config)))
    with pytest.raises(IncompatibleExpert, match="99 token ids"):
        open_whole(expert, random_base("llama"))


@pytest.fixture
def folder(tmp_path):
    """A whole model's folder from elsewhere, which can be edited."""
    random_base("llama").model.save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_a_transformers_folder_becomes_an_expert(folder, tmp_path):
    expert = Expert(ExpertCard(name="x", kind="whole"), WholePayload(folder))
    save_expert(expert, tmp_path / "kept")
    opened = open_whole(load_expert(tmp_path / "kept"), random_base("llama", 1))
    assert torch.equal(opened.logprobs(TOKENS), random_base("llama").logprobs(TOKENS))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"auto_map": {"AutoModelForCausalLM": "evil.Model"}}, "run code"),
        ({"hidden_size": 32}, "not those that config.json describes"),
        ({"num_hidden_layers": 3}, "not those that config.json describes"),
        ({"model_type": "never-heard-of"}, "no causal language model"),
        ({"model_type": ["llama"]}, "no causal language model"),
        ({"num_attention_heads": 0}, "no causal language model"),
        ({"hidden_size": "wide"}, "no causal language model"),
        ({"quantization_config": {"quant_method": "bitsandbytes", "load_in_8bit": True}}, "quantization_config"),
        ({"attn_implementation": "evil/kernel"}, "attn_implementation"),
        ({"text_config": {"_attn_implementation": "evil/kernel"}}, "_attn_implementation"),
        ({"nested": [{"auto_map": {"AutoModelForCausalLM": "evil.Model"}}]}, "run code"),
    ],
)
def test_a_folder_that_does_not_hold_together_is_refused(folder, tmp_path, fields, words):
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), **fields}))
    expert = Expert(ExpertCard(name="x", kind="whole"), WholePayload(folder))
    with pytest.raises(CorruptExpert, match=words) as refused:
        save_expert(expert, tmp_path / "kept")
    assert str(folder) in str(refused.value), "the folder it came from is named, not the one it was to go to"


def test_a_model_is_never_opened_with_the_attention_that_its_file_names(folder, monkeypatch):
    """What `check_whole` refuses is not heard by the loader either."""
    config = folder / "config.json"
    config.write_text(json.dumps({**json.loads(config.read_text()), "attn_implementation": "evil/kernel"}))
    assert load_model(folder, dtype=torch.float32).config._attn_implementation == "sdpa"


def test_exhausted_memory_is_no_damage(folder, monkeypatch):
    def exhausted(*arguments, **options):
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", exhausted)
    with pytest.raises(ResourceError, match="memory is exhausted"):
        load_model(folder, dtype=torch.float32)


def test_quantised_weights_are_refused(folder, tmp_path):
    tensors = load_file(folder / "model.safetensors")
    name = next(iter(tensors))
    for dtype in (torch.float8_e4m3fn, torch.float8_e8m0fnu):
        save_file({**tensors, name: tensors[name].to(dtype)}, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(CorruptExpert, match="float8"):
            save_expert(Expert(ExpertCard(name="x", kind="whole"), WholePayload(folder)), tmp_path / f"kept-{dtype}")


def judge(base, architecture="llama", *, task="reward", labels=1):
    card = ExpertCard(name="judge", kind="whole", task=task, base=base.fingerprint)
    return Expert(card, WholePayload(random_classifier(architecture, 1, labels=labels)))


@pytest.mark.parametrize(("architecture", "head"), [("llama", "score"), ("gpt2", "score"), ("bert", "classifier")])
def test_a_judge_comes_back_with_its_head(architecture, head, tmp_path):
    base = random_base(architecture)
    expert = judge(base, architecture, task="classification", labels=3)
    save_expert(expert, tmp_path / "judge")
    opened = open_whole(load_expert(tmp_path / "judge", base=base.fingerprint), base)
    own = expert.payload.model
    assert not opened.speaks
    assert opened.causal == (architecture != "bert")
    assert torch.equal(opened.model.get_submodule(head).weight, own.get_submodule(head).weight)
    with torch.no_grad():
        assert torch.equal(opened.hidden(TOKENS), own.eval().base_model(TOKENS).last_hidden_state)
    assert open_whole(expert, base).fingerprint == opened.fingerprint


def test_judges_are_averaged_with_judges_alone():
    from transformers import LlamaForCausalLM

    base = random_base("llama")
    one, two = judge(base), judge(base)
    averaged = average_experts([one, two], [1.0, 1.0], name="mean", base=base)
    assert averaged.card.task == "reward"
    assert torch.allclose(averaged.payload.model.score.weight, one.payload.model.score.weight)
    alike = LlamaForCausalLM(one.payload.model.config)
    speaker = Expert(ExpertCard(name="llama-one", kind="whole"), WholePayload(alike))
    with pytest.raises(IncompatibleExpert, match="one architecture"):
        average_experts([one, speaker], [1.0, 1.0], name="mean", base=base)


@pytest.mark.parametrize(
    ("task", "model", "says"),
    [
        ("language", lambda: random_classifier("llama"), "is a sequence classifier"),
        ("reward", lambda: random_base("llama").model, "without a head over a text"),
        ("classification", lambda: random_base("llama").model, "says no number"),
    ],
)
@pytest.mark.parametrize("stored", [False, True])
def test_a_model_does_what_its_card_says(task, model, says, stored, tmp_path):
    made = model()
    if stored:
        made.save_pretrained(tmp_path / "elsewhere")
    expert = Expert(
        ExpertCard(name="odd", kind="whole", task=task), WholePayload(tmp_path / "elsewhere" if stored else made)
    )
    for refused in (
        lambda: save_expert(expert, tmp_path / "odd"),
        lambda: check_expert(expert),
        lambda: open_whole(expert, random_base("llama")),
    ):
        with pytest.raises(IncompatibleExpert, match=says):
            refused()
    assert not (tmp_path / "odd").exists()


def test_a_card_that_lies_about_a_stored_model_is_refused(tmp_path):
    save_expert(judge(random_base("llama")), tmp_path / "judge")
    card = tmp_path / "judge" / "card.json"
    card.write_text(card.read_text().replace('"task": "reward"', '"task": "language"'))
    with pytest.raises(IncompatibleExpert, match="is a sequence classifier"):
        load_expert(tmp_path / "judge")


def test_a_judge_without_its_head_is_refused(tmp_path):
    random_classifier("llama").save_pretrained(tmp_path / "model")
    tensors = load_file(tmp_path / "model" / "model.safetensors")
    del tensors["score.weight"]
    save_file(tensors, tmp_path / "model" / "model.safetensors", metadata={"format": "pt"})
    expert = Expert(ExpertCard(name="x", kind="whole", task="reward"), WholePayload(tmp_path / "model"))
    with pytest.raises(CorruptExpert, match=r"not those that config.json describes.*score\.weight"):
        save_expert(expert, tmp_path / "kept")
