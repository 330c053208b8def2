"""vLLM and LoRAX read one rank and one alpha from an adapter: read that way, what is written is the expert."""

import json
import shlex

import pytest
import torch
from safetensors.torch import load_file

from collegium.core.errors import IncompatibleExpert
from collegium.experts.export import FORMATS, Served
from collegium.experts.export.even import even
from collegium.experts.export.lorax import every_block
from collegium.experts.export.vllm import RANKS, accepted_rank
from collegium.models import LoraWeights
from collegium.testing.pico import random_base


def as_a_server_reads(folder):
    """Every layer's change, by the one r and the one lora_alpha of the file; the patterns are passed over."""
    config = json.loads((folder / "adapter_config.json").read_text())
    tensors = load_file(folder / "adapter_model.safetensors")
    scale = config["lora_alpha"] / config["r"]
    paths = [key.removeprefix("base_model.model.").removesuffix(".lora_A.weight") for key in tensors if "lora_A" in key]
    halves = {path: [tensors[f"base_model.model.{path}.lora_{half}.weight"] for half in "AB"] for path in paths}
    assert all(a.shape[0] == b.shape[1] == config["r"] for a, b in halves.values())
    return {path: scale * (b @ a) for path, (a, b) in halves.items()}


def written(form, experts, base, tmp_path, **told):
    served = Served(base.config, "/models/base", **told)
    FORMATS[form].check(experts, served)
    (tmp_path / "aside").mkdir()
    used = FORMATS[form].write(experts, served, tmp_path / "aside", tmp_path / "out")
    return tmp_path / "aside", used


@pytest.mark.parametrize("form", ["vllm", "lorax"])
@pytest.mark.parametrize("shape", ["uneven", "plain"])
def test_a_server_that_reads_one_rank_and_alpha_reads_the_expert(form, shape, uneven, plain, tmp_path):
    base = random_base("llama")
    expert = (uneven if shape == "uneven" else plain)(base, layers=[1])
    folder, _ = written(form, [expert], base, tmp_path)
    read = as_a_server_reads(folder / "law")
    for path, part in expert.payload.lora.items():
        torch.testing.assert_close(read[path], part.delta(), rtol=1e-5, atol=1e-6)
    silent = read.keys() - expert.payload.lora.keys()
    assert all(not read[path].any() for path in silent)
    assert len(silent) == (0 if form == "vllm" else 7), "LoRAX wants every block"
    assert (folder / "law").stat().st_mode & 0o777 == 0o755


def test_evening_out_changes_no_bit_of_what_is_even(plain):
    adapter = plain(random_base("llama")).payload.lora
    evened = even(adapter)
    assert all(evened[path] is part for path, part in adapter.items())


def test_a_zero_for_every_block_that_lacks_one(plain):
    base = random_base("gpt2")
    expert = plain(base, targets=["attn.c_attn"], layers=[0])
    full = every_block(expert, Served(base.config))
    assert list(full) == ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn"]
    assert full["transformer.h.1.attn.c_attn"].shape == expert.payload.lora["transformer.h.0.attn.c_attn"].shape
    assert not full["transformer.h.1.attn.c_attn"].delta().any()


def test_vllm_is_told_of_every_expert(uneven, plain, tmp_path):
    base = random_base("llama")
    experts = [uneven(base, "law"), plain(base, "code", rank=9)]
    folder, used = written("vllm", experts, base, tmp_path, revision="main")
    words = shlex.split(used["command"])
    assert words[:5] == ["vllm", "serve", "/models/base", "--revision", "main"]
    assert words[5:10] == ["--enable-lora", "--max-lora-rank", "16", "--max-loras", "2"]
    assert words[10:] == ["--lora-modules", f"law={tmp_path}/out/law", f"code={tmp_path}/out/code"]
    assert (folder / "vllm.txt").read_text() == used["command"] + "\n"


def test_lorax_is_told_where_each_expert_lies(plain, tmp_path):
    base = random_base("llama")
    folder, used = written("lorax", [plain(base)], base, tmp_path)
    assert used["command"] == "lorax-launcher --model-id /models/base"
    asked = used["requests"]["law"]["parameters"]
    assert (asked["adapter_id"], asked["adapter_source"]) == (str(tmp_path / "out" / "law"), "local")
    launch, call = (folder / "lorax.txt").read_text().splitlines()
    assert launch == used["command"]
    assert json.loads(shlex.split(call)[-1]) == used["requests"]["law"]


@pytest.mark.parametrize(("rank", "accepted"), [(1, 1), (2, 8), (8, 8), (9, 16), (257, 320), (512, 512)])
def test_the_next_rank_that_vllm_accepts(plain, rank, accepted):
    assert accepted in RANKS
    part = LoraWeights(torch.zeros(rank, 1), torch.zeros(1, rank))
    expert = plain(random_base("llama"))
    object.__setattr__(expert.payload, "adapter", {"model.layers.0.self_attn.q_proj": part})
    assert accepted_rank(expert) == accepted


def test_a_rank_above_vllms_largest_is_refused_by_name(plain):
    part = LoraWeights(torch.zeros(513, 1), torch.zeros(1, 513))
    base = random_base("llama")
    expert = plain(base)
    object.__setattr__(expert.payload, "adapter", {"model.layers.0.self_attn.q_proj": part})
    with pytest.raises(IncompatibleExpert, match="'law' has rank 513, vLLM serves ranks up to 512"):
        FORMATS["vllm"].check([expert], Served(base.config))


@pytest.mark.parametrize(
    ("form", "architecture"), [("vllm", "gpt2"), ("vllm", "gpt_neox"), ("lorax", "gpt_neox"), ("lorax", "gemma3")]
)
def test_a_base_that_a_server_cannot_change_is_refused_by_its_type(form, architecture, plain):
    base = random_base(architecture)
    with pytest.raises(IncompatibleExpert, match=f"base of type '{base.config.model_type}'.*llama.*--to merged"):
        FORMATS[form].check([plain(base)], Served(base.config))


@pytest.mark.parametrize("form", ["vllm", "lorax"])
def test_a_layer_that_a_server_cannot_change_is_refused_by_its_path(form, plain):
    base = random_base("llama")
    expert = plain(base, layers=[1])
    strange = {"model.layers.1.mlp.router": next(iter(expert.payload.lora.values()))}
    object.__setattr__(expert.payload, "adapter", strange)
    with pytest.raises(IncompatibleExpert, match=r"'law' changes 'model\.layers\.1\.mlp\.router'"):
        FORMATS[form].check([expert], Served(base.config))


def test_layers_of_other_shapes_from_block_to_block_are_refused(plain):
    base = random_base("llama")
    expert = plain(base, targets=["q_proj"])
    first, second = expert.payload.lora
    wide = LoraWeights(torch.zeros(4, 128), torch.zeros(64, 4))
    object.__setattr__(expert.payload, "adapter", {first: expert.payload.lora[first], second: wide})
    with pytest.raises(IncompatibleExpert, match="differ in shape"):
        FORMATS["lorax"].check([expert], Served(base.config))
