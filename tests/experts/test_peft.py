"""PEFT folders in and out, against the real `peft`: an adapter means the same to both."""

import copy
import json

import peft
import pytest
import torch

from collegium.core.cards import ExpertCard
from collegium.core.errors import CorruptExpert, IncompatibleExpert, NameTaken
from collegium.experts import AdapterPayload, Expert, adapter_payload, read_peft, save_expert
from collegium.models import LoraWeights, RowPlan
from collegium.testing.pico import random_adapter, random_base

pytestmark = pytest.mark.filterwarnings(
    # PEFT asks transformers a question that transformers has renamed.
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)

ARCHITECTURES = ("llama", "gpt2", "gpt_neox", "qwen3", "gemma3")
TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}


def peft_model(architecture, **fields):
    """A PEFT model on a copy of a tiny base, its adapter filled with random weights as training would."""
    base = random_base(architecture)
    config = peft.LoraConfig(task_type="CAUSAL_LM", fan_in_fan_out=architecture == "gpt2", **fields)
    model = peft.get_peft_model(copy.deepcopy(base.model), config)
    draw = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = torch.randn(parameter.shape, generator=draw) * 0.2
    return base, model.eval()


def saved(model, folder):
    model.save_pretrained(folder)
    return folder


def peft_deltas(model):
    """PEFT's own change of each weight matrix, as (out, in) whatever way round the base keeps it."""
    found = {}
    for path, module in model.base_model.model.named_modules():
        if hasattr(module, "get_delta_weight"):
            delta = module.get_delta_weight("default").detach()
            found[path] = delta.T if module.fan_in_fan_out else delta
    return found


def tokens():
    return torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(2))


PATTERNS = {
    "llama": {
        "rank_pattern": {r"layers\.0\..*\.q_proj": 2, "down_proj": 3},
        "alpha_pattern": {"q_proj": 5, r"^model\.layers\.1\.mlp\.down_proj": 6},
    },
    "gpt2": {
        "rank_pattern": {r"h\.0\.attn\.(c_attn|c_proj)": 2, "mlp.c_proj": 3},
        "alpha_pattern": {"c_proj": 5, r"^transformer\.h\.1\.attn\.c_attn": 6},
    },
}
LISTS = {"llama": ["layers"], "gpt2": "h"}


def configs(architecture):
    """Every honoured field of PEFT's, in turn and together."""
    plain = {"r": 4, "lora_alpha": 8}
    return {
        "plain": plain,
        "rank and alpha patterns": {**plain, **PATTERNS[architecture]},
        "rslora": {"r": 5, "lora_alpha": 7, "use_rslora": True, **PATTERNS[architecture]},
        "one layer": {**plain, "layers_to_transform": [1]},
        "one layer of a named list": {**plain, "layers_to_transform": 0, "layers_pattern": LISTS[architecture]},
        "excluded": {**plain, "exclude_modules": r".*\.0\..*"},
        "excluded by name": {**plain, "exclude_modules": ["mlp.down_proj", "mlp.c_proj"]},
        "dropout and gaussian": {**plain, "lora_dropout": 0.5, "init_lora_weights": "gaussian"},
    }


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
@pytest.mark.parametrize("name", configs("llama"))
def test_an_adapter_of_pefts_gives_the_same_deltas(architecture, name, tmp_path):
    base, model = peft_model(architecture, target_modules=TARGETS[architecture], **configs(architecture)[name])
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    ours = {path: weights.delta() for path, weights in expert.payload.adapter.items()}
    theirs = peft_deltas(model)
    assert ours.keys() == theirs.keys()
    for path, delta in theirs.items():
        torch.testing.assert_close(ours[path], delta, rtol=1e-6, atol=1e-6)
    assert expert.card.base is None
    assert expert.payload.fan_in_fan_out == (architecture == "gpt2")


@pytest.mark.parametrize("targets", [r".*\.1\.self_attn\.(q|k)_proj", "all-linear"])
def test_a_pattern_of_targets_is_read_as_peft_reads_it(targets, tmp_path):
    base, model = peft_model("llama", r=2, lora_alpha=4, target_modules=targets)
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    assert expert.payload.adapter.keys() == peft_deltas(model).keys()


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_an_adapter_of_pefts_gives_the_same_logits(architecture, tmp_path):
    base, model = peft_model(architecture, target_modules=TARGETS[architecture], **configs(architecture)["rslora"])
    expert = read_peft(saved(model, tmp_path / "theirs"), base)
    base.attach("theirs", expert.payload.adapter)
    with torch.no_grad():
        expected = model(tokens()).logits.log_softmax(-1)
    found = base.logprobs_rows(tokens(), plan=RowPlan.one("theirs"))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)


def uneven(base):
    """An adapter whose ranks and scales differ from layer to layer."""
    adapter = random_adapter(base, rank=3, scale=2 / 3)
    paths = sorted(adapter)
    for place, path in enumerate(paths[1::2]):
        rank = 1 + place % 3
        whole = adapter[path]
        adapter[path] = LoraWeights(whole.a[:rank].clone(), whole.b[:, :rank].clone(), 0.25 + place / 7)
    return adapter


@pytest.mark.parametrize("shape", ["even", "uneven"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_an_expert_of_ours_gives_peft_the_same_logits(architecture, shape, tmp_path):
    base = random_base(architecture)
    adapter = uneven(base) if shape == "uneven" else random_adapter(base, layers=[1])
    card = ExpertCard(name="ours", kind="lora", base=base.fingerprint)
    save_expert(Expert(card, adapter_payload(base, adapter)), tmp_path / "ours")
    base.attach("ours", adapter)
    found = base.logprobs_rows(tokens(), plan=RowPlan.one("ours"))[0]
    loaded = peft.PeftModel.from_pretrained(copy.deepcopy(random_base(architecture).model), tmp_path / "ours").eval()
    with torch.no_grad():
        expected = loaded(tokens()).logits.log_softmax(-1)
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert peft_deltas_close(loaded, adapter)


def peft_deltas_close(model, adapter):
    theirs = peft_deltas(model)
    return theirs.keys() == adapter.keys() and all(
        torch.allclose(theirs[path], weights.delta(), rtol=1e-5, atol=1e-6) for path, weights in adapter.items()
    )


def test_a_round_trip_through_peft_changes_no_bit(tmp_path):
    base = random_base("llama")
    adapter = uneven(base)
    save_expert(Expert(ExpertCard(name="ours", kind="lora"), AdapterPayload(adapter)), tmp_path / "ours")
    loaded = peft.PeftModel.from_pretrained(random_base("llama").model, tmp_path / "ours")
    again = read_peft(saved(loaded, tmp_path / "again"), base).payload.adapter
    for path, weights in adapter.items():
        assert torch.equal(again[path].a, weights.a)
        assert torch.equal(again[path].b, weights.b)
        assert again[path].scale == pytest.approx(weights.scale, rel=1e-15)


@pytest.fixture
def theirs(tmp_path):
    """A base, and a PEFT folder for it that can be edited."""
    base, model = peft_model("llama", r=2, lora_alpha=4, target_modules=["q_proj"])
    return base, saved(model, tmp_path / "theirs")


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


REFUSED = {
    "use_dora": True,
    "bias": "all",
    "lora_bias": True,
    "alora_invocation_tokens": [1, 2],
    "trainable_token_indices": [1],
    "target_parameters": ["mlp.up"],
    "layer_replication": [[0, 1]],
    "modules_to_save": ["lm_head"],
    "use_qalora": True,
    "megatron_config": {"a": 1},
    "ensure_weight_tying": True,
    "kasa_config": {"beta": 1.0},
    "a_field_of_the_future": 3,
    "task_type": "TOKEN_CLS",
    "r": 0,
    "lora_alpha": "8",
    "rank_pattern": {"q_proj": "2"},
    "target_modules": None,
    "layers_to_transform": "1",
}


@pytest.mark.parametrize("field", REFUSED)
def test_what_is_not_computed_is_refused_by_its_field(theirs, field):
    base, folder = theirs
    edit(folder, **{field: REFUSED[field]})
    with pytest.raises(IncompatibleExpert, match=field):
        read_peft(folder, base)


@pytest.mark.parametrize("start", ["pissa", "pissa_niter_4", "olora", "loftq", "eva", "corda", "lora_ga", "mica"])
def test_a_start_that_is_not_plain_is_refused(theirs, start):
    base, folder = theirs
    edit(folder, init_lora_weights=start)
    with pytest.raises(IncompatibleExpert, match="init_lora_weights = '" + start):
        read_peft(folder, base)


@pytest.mark.parametrize("kind", ["LOHA", "ADALORA", "PROMPT_TUNING", 3, None])
def test_another_peft_type_is_refused_by_name(theirs, kind):
    base, folder = theirs
    edit(folder, peft_type=kind)
    with pytest.raises(IncompatibleExpert, match=f"peft_type {kind!r}"):
        read_peft(folder, base)


def test_unknown_fields_at_their_default_are_fine(theirs):
    base, folder = theirs
    edit(folder, a_field_of_the_future=None, another=False, a_third={}, qalora_group_size=16)
    assert read_peft(folder, base).name == "theirs"


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("a_field_of_the_future", 0),
        ("a_field_of_the_future", 0.0),
        ("modules_to_save", ["lm_head"]),
        ("fan_in_fan_out", "yes"),
    ],
    ids=range(4),
)
def test_values_that_mean_nothing_to_us_are_refused_by_their_field(theirs, field, value):
    base, folder = theirs
    edit(folder, **{field: value})
    with pytest.raises(IncompatibleExpert, match=f"{field} = "):
        read_peft(folder, base)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lora_alpha", 10**400),
        ("r", 10**400),
        ("rank_pattern", {"q_proj": 10**400}),
        ("alpha_pattern", {"q_proj": -(10**400)}),
    ],
    ids=["lora_alpha", "r", "rank_pattern", "alpha_pattern"],
)
def test_numbers_that_nothing_holds_are_refused_shortly(theirs, field, value):
    base, folder = theirs
    edit(folder, **{field: value})
    with pytest.raises(CorruptExpert, match="64 bits") as caught:
        read_peft(folder, base)
    assert len(str(caught.value)) < 300


def test_a_hostile_pattern_is_ended(theirs, monkeypatch):
    base, folder = theirs
    monkeypatch.setattr("collegium.experts.patterns.TIME_LIMIT_SECONDS", 0.5)
    edit(folder, target_modules=r"(([a-z._0-9]+)+)+!")
    with pytest.raises(IncompatibleExpert, match="hostile"):
        read_peft(folder, base)


def test_a_broken_pattern_is_told(theirs):
    base, folder = theirs
    edit(folder, target_modules="(q_proj")
    with pytest.raises(IncompatibleExpert, match="broken regular expression"):
        read_peft(folder, base)


def test_targets_without_weights_and_weights_without_targets_are_refused(theirs):
    base, folder = theirs
    edit(folder, target_modules=["q_proj", "v_proj"])
    with pytest.raises(IncompatibleExpert, match="holds no weights"):
        read_peft(folder, base)
    edit(folder, target_modules=["v_proj"])
    with pytest.raises(IncompatibleExpert, match="does not target"):
        read_peft(folder, base)


def test_ranks_must_agree_with_the_matrices(theirs):
    base, folder = theirs
    edit(folder, r=3)
    with pytest.raises(IncompatibleExpert, match="says rank 3"):
        read_peft(folder, base)


def test_an_adapter_of_another_base_is_refused_by_its_layers(theirs):
    _, folder = theirs
    with pytest.raises(
        IncompatibleExpert, match="no linear layers, feed-forward blocks or attention layers in this base"
    ):
        read_peft(folder, random_base("gpt2"))


def test_other_shapes_are_refused(theirs):
    base, folder = theirs
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "adapter_model.safetensors")
    grown = {key: torch.cat([each, each], dim=1 if "lora_A" in key else 0) for key, each in tensors.items()}
    save_file(grown, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    with pytest.raises(IncompatibleExpert, match="maps 128 inputs to 128 outputs, this base has 64 and 64 there"):
        read_peft(folder, base)


@pytest.mark.parametrize("name", ["adapter_model.bin", "weights.pt", "evil.pkl"])
def test_pickles_are_refused_by_name(theirs, name):
    base, folder = theirs
    (folder / name).write_bytes(b"\x80\x04N.")
    with pytest.raises(CorruptExpert, match=name):
        read_peft(folder, base)


def test_what_a_trainer_leaves_beside_is_passed_over(theirs):
    base, folder = theirs
    (folder / "training_args.bin").write_bytes(b"\x80\x04N.")
    (folder / "optimizer.pt").write_bytes(b"\x80\x04N.")
    assert read_peft(folder, base, name="from-a-checkpoint").name == "from-a-checkpoint"


def test_a_pickle_alone_is_refused(theirs):
    base, folder = theirs
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    with pytest.raises(CorruptExpert, match=r"adapter_model\.bin"):
        read_peft(folder, base)


def test_names_with_path_parts_are_refused(theirs):
    base, folder = theirs
    with pytest.raises(NameTaken, match="path parts"):
        read_peft(folder, base, name="../x")
