"""Adapters of PEFT's other kinds: at full rank they are the same model, at a smaller rank the card says how far off."""

import copy
import json
import shutil
import subprocess
import sys

import peft
import pytest
import torch
from safetensors.torch import load_file, save_file

from collegium.core.errors import ConfigError, CorruptExpert, IncompatibleExpert, NameTaken, ResourceError
from collegium.experts import convert_peft, foreign_kind
from collegium.models import RowPlan
from collegium.testing.pico import random_base

pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::UserWarning")

TARGETS = {"llama": ["q_proj", "down_proj"], "gpt2": ["c_attn", "c_proj"]}
SETTINGS = {
    "C3A": {"block_size": 16},
    "DELORA": {},
    "FOURIERFT": {"n_frequency": 50},
    "GRALORA": {},
    "LOHA": {},
    "LOKR": {},
    "MISS": {},
    "PSOFT": {},
    "RANDLORA": {"r": 4, "target_modules": ["q_proj"]},
    "TINYLORA": {"target_modules": ["q_proj"]},
    "UNILORA": {},
    "VBLORA": {"num_vectors": 16, "vector_length": 16, "topk": 2},
    "VERA": {"target_modules": ["q_proj"]},
    "WAVEFT": {"n_frequency": 50},
}
"""Every kind that this version of PEFT converts."""
ON_GPT2 = {"GRALORA": {}, "UNILORA": {}, "VBLORA": SETTINGS["VBLORA"], "VERA": {"target_modules": ["c_attn"]}}
REFUSED = {"BOFT": {}, "OFT": {}, "SHIRA": {"target_modules": ["q_proj"]}, "HRA": {}, "LN_TUNING": {}}


def theirs(kind, folder, *, architecture="llama", **settings):
    """A tiny base, a PEFT model of that kind on a copy of it, changed as training would, and its folder."""
    base = random_base(architecture)
    make = peft.mapping.PEFT_TYPE_TO_CONFIG_MAPPING[kind]
    config = make(task_type="CAUSAL_LM", **{"target_modules": TARGETS[architecture], **settings})
    with torch.random.fork_rng():
        model = peft.get_peft_model(copy.deepcopy(base.model), config)
    draw = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data += torch.randn(parameter.shape, generator=draw) * 0.1
    model.save_pretrained(folder)
    return base, model.eval(), folder


def tokens():
    return torch.randint(0, 250, (2, 9), generator=torch.Generator().manual_seed(2))


def edit(folder, **fields):
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


@pytest.mark.parametrize(
    ("kind", "architecture"), [*((kind, "llama") for kind in SETTINGS), *((kind, "gpt2") for kind in ON_GPT2)]
)
def test_at_full_rank_it_is_the_same_model(kind, architecture, tmp_path):
    settings = (SETTINGS if architecture == "llama" else ON_GPT2)[kind]
    base, model, folder = theirs(kind, tmp_path / "theirs", architecture=architecture, **settings)
    before = {key: tensor.clone() for key, tensor in base.model.state_dict().items()}
    expert = convert_peft(folder, base, rank=64)
    assert all(torch.equal(tensor, before[key]) for key, tensor in base.model.state_dict().items())
    assert base.attached == ()
    base.attach("theirs", expert.payload.adapter)
    with torch.no_grad():
        expected = model(tokens()).logits.log_softmax(-1)
    found = base.logprobs_rows(tokens(), plan=RowPlan.one("theirs"))[0]
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert not torch.allclose(found, base.logprobs(tokens()), rtol=0, atol=1e-4)
    assert expert.card.recipe["relative_error"] < 1e-5
    assert expert.card.recipe["peft_type"] == kind


@pytest.mark.parametrize("kind", ["LOHA", "LOKR", "WAVEFT"])
def test_the_error_on_the_card_is_that_of_the_best_low_rank_change(kind, tmp_path):
    """Eckart and Young: what rank R misses is the squares of the other singular values."""
    base, model, folder = theirs(kind, tmp_path / "theirs", **SETTINGS[kind])
    sites = {
        path: module for path, module in model.base_model.model.named_modules() if hasattr(module, "get_delta_weight")
    }
    values = [torch.linalg.svdvals(site.get_delta_weight("default").detach()) for site in sites.values()]
    errors = []
    for rank in (1, 4, 16):
        card = convert_peft(folder, base, rank=rank).card
        missed = sum(float(each[rank:].square().sum()) for each in values)
        whole = sum(float(each.square().sum()) for each in values)
        errors.append(card.recipe["relative_error"])
        assert errors[-1] == pytest.approx((missed / whole) ** 0.5, rel=1e-3)
        assert card.recipe["worst_relative_error"] >= errors[-1]
        assert f"LoRA of rank {rank}" in card.warnings[0]
        assert f"{errors[-1]:.2%}" in card.warnings[0]
    assert errors == sorted(errors, reverse=True)
    assert card.base is None


@pytest.mark.parametrize("kind", REFUSED)
def test_what_cannot_be_converted_is_refused_by_its_kind(kind, tmp_path):
    base, _, folder = theirs(kind, tmp_path / "theirs", **REFUSED[kind])
    with pytest.raises(IncompatibleExpert, match=f"type '{kind}'.*LOHA"):
        convert_peft(folder, base, rank=4)


@pytest.fixture
def loha(tmp_path):
    base, _, folder = theirs("LOHA", tmp_path / "theirs")
    return base, folder


@pytest.mark.parametrize("kind", ["PROMPT_TUNING", "P_TUNING", "NOVEL", 5])
def test_kinds_without_matrices_are_refused_by_name(loha, kind):
    base, folder = loha
    edit(folder, peft_type=kind)
    with pytest.raises(IncompatibleExpert, match=f"type {kind!r} change no weight matrices"):
        convert_peft(folder, base, rank=4)


@pytest.mark.parametrize("kind", ["LORA", "IA3", "PREFIX_TUNING"])
def test_what_is_read_as_it_is_is_not_converted(loha, kind):
    base, folder = loha
    assert foreign_kind(folder) == "LOHA"
    edit(folder, peft_type=kind)
    assert foreign_kind(folder) is None
    with pytest.raises(ConfigError, match="leave out --convert-rank"):
        convert_peft(folder, base, rank=4)


@pytest.mark.parametrize(("rank", "lesson"), [(0, "at least 1"), (-1, "at least 1"), (65, "at most 64")])
def test_a_rank_that_no_layer_has_is_refused(loha, rank, lesson):
    base, folder = loha
    with pytest.raises(ConfigError, match=lesson):
        convert_peft(folder, base, rank=rank)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("modules_to_save", ["lm_head"]),
        ("a_field_of_the_future", 3),
        ("rank_pattern", {r"(a+)+q_proj": 2}),
        ("alpha_pattern", {r".*q_proj": 2}),
        ("r", 10**9),
        ("target_modules", "(broken"),
        ("target_modules", None),
        ("target_modules", ["no_such_layer"]),
    ],
)
def test_fields_that_are_not_followed_are_refused_by_name(loha, field, value):
    base, folder = loha
    edit(folder, **{field: value})
    with pytest.raises(IncompatibleExpert, match=f"{field}|targeted"):
        convert_peft(folder, base, rank=4)


def test_patterns_are_followed_under_a_time_limit(loha, monkeypatch):
    base, folder = loha
    expected = convert_peft(folder, base, rank=4).payload.adapter.keys()
    edit(folder, target_modules=r".*\.(q_proj|down_proj)")
    assert convert_peft(folder, base, rank=4).payload.adapter.keys() == expected
    monkeypatch.setattr("collegium.experts.patterns.TIME_LIMIT_SECONDS", 0.5)
    edit(folder, target_modules=r"(([a-z._0-9]+)+)+!")
    with pytest.raises(IncompatibleExpert, match="target_modules"):
        convert_peft(folder, base, rank=4)


def test_a_library_named_in_the_file_is_never_imported(loha, tmp_path):
    base, folder = loha
    edit(folder, auto_mapping={"base_model_class": "X", "parent_library": "antigravity"}, task_type=None)
    convert_peft(folder, base, rank=4)
    assert "antigravity" not in sys.modules


def test_an_adapter_of_another_base_is_refused(loha):
    _, folder = loha
    with pytest.raises(IncompatibleExpert, match="another base"):
        convert_peft(folder, random_base("gpt2"), rank=4)


def test_other_shapes_are_refused(loha):
    base, folder = loha
    path = folder / "adapter_model.safetensors"
    save_file({key: torch.cat([each, each]) for key, each in load_file(path).items()}, path)
    with pytest.raises(IncompatibleExpert, match="cannot load this adapter"):
        convert_peft(folder, base, rank=4)


@pytest.mark.parametrize("change", ["one more", "one less"])
def test_a_file_that_is_not_what_its_configuration_says_is_refused(loha, change):
    base, folder = loha
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    if change == "one more":
        tensors["base_model.model.model.layers.0.mlp.up_proj.hada_w1_a"] = torch.ones(2, 2)
    else:
        del tensors[sorted(tensors)[0]]
    save_file(tensors, path)
    with pytest.raises(IncompatibleExpert, match="do not agree"):
        convert_peft(folder, base, rank=4)


def test_numbers_that_are_not_finite_are_refused(loha):
    base, folder = loha
    path = folder / "adapter_model.safetensors"
    tensors = load_file(path)
    tensors[sorted(tensors)[0]].fill_(float("nan"))
    save_file(tensors, path)
    with pytest.raises(CorruptExpert):
        convert_peft(folder, base, rank=4)


def test_pickles_and_odd_names_are_refused(loha, tmp_path):
    base, folder = loha
    with pytest.raises(NameTaken, match="path parts"):
        convert_peft(folder, base, rank=4, name="../x")
    (folder / "adapter_model.bin").write_bytes(b"\x80\x04N.")
    with pytest.raises(CorruptExpert, match=r"adapter_model\.bin"):
        convert_peft(folder, base, rank=4)
    shutil.rmtree(tmp_path / "theirs")


def test_without_peft_its_install_line_is_told(loha):
    _, folder = loha
    code = (
        "import sys; sys.modules['peft'] = None\n"
        "from pathlib import Path\n"
        "from collegium.core.errors import ResourceError\n"
        "from collegium.experts import convert_peft\n"
        "from collegium.testing.pico import random_base\n"
        "try:\n"
        f"    convert_peft(Path({str(folder)!r}), random_base('llama'), rank=4)\n"
        "except ResourceError as error:\n"
        "    print(error)\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "pip install 'collegium[peft]'" in told


def test_a_peft_that_cannot_convert_is_told(loha, monkeypatch):
    base, folder = loha
    monkeypatch.delattr(peft, "convert_to_lora")
    with pytest.raises(ResourceError, match="upgrade peft"):
        convert_peft(folder, base, rank=4)
