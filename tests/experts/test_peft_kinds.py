"""IA3 and prefixes in and out of PEFT, against the real `peft`: an adapter means the same to both."""

import copy
import json

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from collegium.core.cards import ExpertCard
from collegium.core.errors import CorruptExpert, IncompatibleExpert
from collegium.experts import AdapterPayload, Expert, adapter_payload, read_peft, save_expert, write_peft
from collegium.models import RowPlan
from collegium.testing.pico import random_adapter, random_base, random_expert

pytestmark = pytest.mark.filterwarnings(
    # PEFT asks transformers a question that transformers has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")
POSITIONED = ("llama", "gpt_neox", "qwen3")
"""Bases on which a prefix of PEFT's is one of ours."""


def tokens(base):
    return torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(2))


def their_model(architecture, config, seed=1):
    """A PEFT model on a copy of a tiny base, its adapter filled with random weights as training would."""
    base = random_base(architecture)
    model = peft.get_peft_model(copy.deepcopy(base.model), config)
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in model.named_parameters():
        if "ia3_" in name:
            parameter.data = 1 + torch.randn(parameter.shape, generator=draw) / 2
        elif "prompt_encoder" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw)
    return base, model.eval()


def theirs(model, base):
    with torch.no_grad():
        return model(input_ids=tokens(base), attention_mask=torch.ones(2, 9, dtype=torch.long)).logits.log_softmax(-1)


def ours(base, adapter):
    base.attach("asked", adapter)
    found = base.logprobs_rows(tokens(base), plan=RowPlan.one("asked"))[0]
    base.detach("asked")
    return found


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def loaded(architecture, folder):
    return peft.PeftModel.from_pretrained(copy.deepcopy(random_base(architecture).model), folder).eval()


IA3 = {
    "default": {},
    "named": {"target_modules": ["q_proj", "down_proj"], "feedforward_modules": ["down_proj"]},
    "patterns": {"target_modules": r".*\.(v_proj|up_proj)", "feedforward_modules": r".*up_proj"},
    "no feed-forward": {"target_modules": ["q_proj"], "feedforward_modules": []},
    "excluded": {
        "target_modules": ["q_proj", "down_proj"],
        "feedforward_modules": ["down_proj"],
        "exclude_modules": r".*\.0\..*",
    },
    "all linear": {"target_modules": "all-linear", "feedforward_modules": ["down_proj", "o_proj"]},
}


@pytest.mark.parametrize("name", IA3)
def test_an_ia3_of_pefts_gives_the_same_logits(name, tmp_path):
    base, model = their_model("llama", peft.IA3Config(task_type="CAUSAL_LM", **IA3[name]))
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    assert (expert.card.kind, expert.card.base) == ("ia3", None)
    torch.testing.assert_close(ours(base, expert.payload.adapter), theirs(model, base), rtol=0, atol=1e-5)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_pefts_default_ia3_is_read_on_every_architecture(architecture, tmp_path):
    config = peft.IA3Config(task_type="CAUSAL_LM", fan_in_fan_out=architecture == "gpt2")
    base, model = their_model(architecture, config)
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    torch.testing.assert_close(ours(base, expert.payload.adapter), theirs(model, base), rtol=0, atol=1e-5)
    assert expert.payload.fan_in_fan_out == (architecture == "gpt2")


@pytest.mark.parametrize("targets", [None, r".*"], ids=["default", "all layers"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_ia3_of_ours_gives_peft_the_same_logits(architecture, targets, tmp_path):
    base = random_base(architecture)
    adapter = random_adapter(base, kind="ia3", targets=targets)
    card = ExpertCard(name="ours", kind="ia3", base=base.fingerprint)
    save_expert(Expert(card, adapter_payload(base, adapter)), tmp_path / "ours")
    model = loaded(architecture, tmp_path / "ours")
    torch.testing.assert_close(ours(base, adapter), theirs(model, base), rtol=0, atol=1e-5)


def test_an_ia3_of_ours_survives_peft_without_a_bit_changed(tmp_path):
    base = random_base("llama")
    expert = random_expert(base, kind="ia3")
    write_peft(expert, tmp_path / "ours", base)
    again = read_peft(saved(loaded("llama", tmp_path / "ours"), tmp_path / "again"), base).payload.adapter
    assert again.keys() == expert.payload.adapter.keys()
    for path, part in expert.payload.adapter.items():
        assert torch.equal(again[path].factors, part.factors)
        assert again[path].side == part.side


@pytest.fixture
def their_ia3(tmp_path):
    config = peft.IA3Config(task_type="CAUSAL_LM", target_modules=["q_proj"], feedforward_modules=[])
    base, model = their_model("llama", config)
    return base, saved(model, tmp_path / "theirs")


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("a_field_of_the_future", 3),
        ("layers_to_transform", [1]),
        ("task_type", "SEQ_CLS"),
        ("target_modules", None),
        ("feedforward_modules", None),
        ("fan_in_fan_out", "yes"),
        ("exclude_modules", 3),
    ],
)
def test_what_ia3_does_not_mean_to_us_is_refused_by_its_field(their_ia3, field, value):
    base, folder = their_ia3
    edit(folder, **{field: value})
    with pytest.raises(IncompatibleExpert, match=field):
        read_peft(folder, base)


def test_sides_targets_patterns_and_numbers_of_an_ia3_are_checked(their_ia3, monkeypatch):
    base, folder = their_ia3
    edit(folder, feedforward_modules=["q_proj"])
    with pytest.raises(IncompatibleExpert, match="layer's input is rescaled"):
        read_peft(folder, base)
    edit(folder, feedforward_modules=[], target_modules=["q_proj", "v_proj"])
    with pytest.raises(IncompatibleExpert, match="holds no weights"):
        read_peft(folder, base)
    edit(folder, target_modules=["v_proj"])
    with pytest.raises(IncompatibleExpert, match="does not target"):
        read_peft(folder, base)
    monkeypatch.setattr("collegium.experts.patterns.TIME_LIMIT_SECONDS", 0.5)
    edit(folder, target_modules=["q_proj"], feedforward_modules=r"(([a-z._0-9]+)+)+!")
    with pytest.raises(IncompatibleExpert, match="hostile"):
        read_peft(folder, base)
    edit(folder, feedforward_modules=[])
    path = folder / "adapter_model.safetensors"
    save_file({key: each * float("nan") for key, each in load_file(path).items()}, path)
    with pytest.raises(CorruptExpert, match="NaN"):
        read_peft(folder, base)


def prefix_config(**fields):
    return peft.PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=5, **fields)


@pytest.mark.parametrize("architecture", POSITIONED)
def test_a_prefix_of_pefts_gives_the_same_logits(architecture, tmp_path):
    base, model = their_model(architecture, prefix_config())
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    assert (expert.card.kind, expert.card.base) == ("prefix", None)
    torch.testing.assert_close(ours(base, expert.payload.adapter), theirs(model, base), rtol=0, atol=2e-5)


def test_the_law_rejects_keys_that_were_not_turned(tmp_path, monkeypatch):
    base, model = their_model("llama", prefix_config())
    monkeypatch.setattr("collegium.experts.peft_prefix.turned", lambda base, keys, *, by: keys)
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    assert (ours(base, expert.payload.adapter) - theirs(model, base)).abs().max() > 1e-2


@pytest.mark.parametrize("architecture", POSITIONED)
def test_a_prefix_of_ours_gives_peft_the_same_logits(architecture, tmp_path):
    base = random_base(architecture)
    expert = random_expert(base, kind="prefix")
    write_peft(expert, tmp_path / "ours", base)
    model = loaded(architecture, tmp_path / "ours")
    torch.testing.assert_close(ours(base, expert.payload.adapter), theirs(model, base), rtol=0, atol=2e-5)
    again = read_peft(tmp_path / "ours", base).payload.adapter
    for path, part in expert.payload.adapter.items():
        torch.testing.assert_close(again[path].keys, part.keys, rtol=0, atol=1e-5)
        assert torch.equal(again[path].values, part.values)


@pytest.mark.parametrize(
    ("architecture", "reason"), [("gpt2", "has no rotary positions"), ("gemma3", "slides over a window")]
)
def test_where_pefts_prefix_is_another_thing_it_is_refused_by_name(architecture, reason, tmp_path):
    base, model = their_model(architecture, prefix_config())
    with pytest.raises(IncompatibleExpert, match=reason):
        read_peft(saved(model, tmp_path / "theirs"), base)
    with pytest.raises(IncompatibleExpert, match=reason):
        write_peft(random_expert(base, kind="prefix"), tmp_path / "ours", base)
    assert not list((tmp_path / "ours").iterdir())


@pytest.fixture
def their_prefix(tmp_path):
    base, model = their_model("llama", prefix_config())
    return base, saved(model, tmp_path / "theirs")


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("prefix_projection", True),
        ("modules_to_save", ["lm_head"]),
        ("a_field_of_the_future", 3),
        ("num_transformer_submodules", 2),
        ("num_virtual_tokens", 0),
        ("num_attention_heads", "2"),
        ("token_dim", 33),
        ("num_layers", 3),
        ("task_type", "SEQ_2_SEQ_LM"),
    ],
)
def test_what_a_prefix_does_not_mean_to_us_is_refused_by_its_field(their_prefix, field, value):
    base, folder = their_prefix
    edit(folder, **{field: value})
    with pytest.raises(IncompatibleExpert, match=field):
        read_peft(folder, base)


def test_a_prefix_of_other_heads_or_another_tensor_is_refused(their_prefix):
    base, folder = their_prefix
    edit(folder, num_attention_heads=4)
    with pytest.raises(IncompatibleExpert, match=r"the prefix has \(heads, size\) \(4, 8\), this base has \(2, 16\)"):
        read_peft(folder, base)
    edit(folder, num_attention_heads=2, num_virtual_tokens=4)
    with pytest.raises(IncompatibleExpert, match="prompt_embeddings"):
        read_peft(folder, base)


def test_a_prefix_on_some_layers_has_no_form_in_peft(tmp_path):
    base = random_base("llama")
    adapter = random_adapter(base, kind="prefix", layers="top:1")
    expert = Expert(ExpertCard(name="top", kind="prefix"), AdapterPayload(adapter))
    with pytest.raises(IncompatibleExpert, match=r"on all 2 layers.*--layers all"):
        write_peft(expert, tmp_path / "ours", base)


@pytest.mark.parametrize("kind", ["bottleneck", "ffn"])
def test_kinds_that_peft_lacks_are_refused_by_name(kind, tmp_path):
    base = random_base("llama")
    with pytest.raises(IncompatibleExpert, match=f"kind '{kind}', for which PEFT has no form"):
        write_peft(random_expert(base, kind=kind), tmp_path / "ours", base)
