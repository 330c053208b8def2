"""llama.cpp's files, read back by gguf's own reader: the rows moved as they must, not a bit changed."""

import gguf
import pytest
import torch

from collegium.core.errors import IncompatibleExpert
from collegium.experts.export import FORMATS, Served
from collegium.experts.export.gguf import gguf_alpha
from collegium.experts.export.gguf_rows import FAMILIES, fused_rows, rotary_rows, row_order
from collegium.models import LoraWeights
from collegium.testing.pico import ARCHITECTURES, random_base

NAMES = {
    "llama": {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "mlp.down_proj": "ffn_down"},
    "qwen3": {"self_attn.q_proj": "attn_q", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate"},
    "gemma3": {"self_attn.v_proj": "attn_v", "mlp.up_proj": "ffn_up"},
    "gpt2": {"attn.c_attn": "attn_qkv", "attn.c_proj": "attn_output", "mlp.c_fc": "ffn_up", "mlp.c_proj": "ffn_down"},
    "gpt_neox": {"attention.query_key_value": "attn_qkv", "attention.dense": "attn_output"},
}


def exported(expert, base, folder):
    """The fields and tensors of an expert's file as gguf reads them."""
    served = Served(base.config)
    FORMATS["gguf"].check([expert], served)
    used = FORMATS["gguf"].write([expert], served, folder, folder)
    assert used["adapters"] == {"law": str(folder / "law.gguf")}
    reader = gguf.GGUFReader(folder / "law.gguf")
    fields = {key: field.contents() for key, field in reader.fields.items()}
    return fields, {each.name: torch.tensor(each.data.copy()) for each in reader.tensors}


def its_name(path, architecture):
    """Return llama.cpp's name of a layer, by the table above; None for a layer that is not in it."""
    index = next(part for part in path.split(".") if part.isdigit())
    tail = path.split(f".{index}.")[1]
    return f"blk.{index}.{NAMES[architecture][tail]}.weight" if tail in NAMES[architecture] else None


@pytest.mark.parametrize("shape", ["uneven", "plain"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_file_read_back_is_the_expert(architecture, shape, uneven, plain, tmp_path):
    base = random_base(architecture)
    expert = (uneven if shape == "uneven" else plain)(base)
    fields, tensors = exported(expert, base, tmp_path)
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["general.name"] == "law"
    assert fields["general.architecture"] == FAMILIES[base.config.model_type].architecture
    assert len(tensors) == 2 * len(expert.payload.lora)
    alpha, seen = fields["adapter.lora.alpha"], 0
    for path, part in expert.payload.lora.items():
        name = its_name(path, architecture)
        if name is None:
            continue
        seen += 1
        a, b = tensors[f"{name}.lora_a"], tensors[f"{name}.lora_b"]
        back = torch.empty_like(b)
        back[row_order(path, b.shape[0], base.config)] = b
        assert torch.equal(a, part.a)
        if part.scale * part.rank == gguf_alpha(expert.payload.lora):
            assert torch.equal(back, part.b)
        torch.testing.assert_close(alpha / b.shape[1] * (back @ a), part.delta(), rtol=1e-5, atol=1e-6)
    assert seen == 2 * len(NAMES[architecture])


def turned(vector, angle, pairs):
    """A head's vector with each pair of its numbers turned by its own angle."""
    out = vector.clone()
    for (first, second), each in zip(pairs, angle, strict=True):
        out[first] = vector[first] * each.cos() - vector[second] * each.sin()
        out[second] = vector[second] * each.cos() + vector[first] * each.sin()
    return out


@pytest.mark.parametrize("size", [2, 4, 16])
def test_attention_is_the_same_in_both_orders(size):
    """q and k turned in halves (transformers) and, rows moved, in neighbours (llama.cpp) have the same product."""
    draw = torch.Generator().manual_seed(size)
    q, k = torch.randn(2, size, generator=draw)
    here, there = torch.randn(2, size // 2, generator=draw)
    halves = [(i, i + size // 2) for i in range(size // 2)]
    neighbours = [(2 * i, 2 * i + 1) for i in range(size // 2)]
    order = rotary_rows(size, 1)
    theirs = turned(q[order], here, neighbours) @ turned(k[order], there, neighbours)
    torch.testing.assert_close(theirs, turned(q, here, halves) @ turned(k, there, halves))


def test_heads_are_moved_each_for_itself():
    rows = rotary_rows(32, 4).view(4, 8)
    for head in range(4):
        assert torch.equal(rows[head], rotary_rows(8, 1) + 8 * head)


def test_fused_rows_are_those_that_transformers_cuts_out():
    """GPT-NeoX views its product as (heads, 3 d) and cuts q, k and v out of each head."""
    heads, size = 4, 6
    product = torch.randn(heads * 3 * size, generator=torch.Generator().manual_seed(0))
    cut = product.view(heads, 3 * size).chunk(3, dim=-1)
    assert torch.equal(product[fused_rows(len(product), heads)], torch.cat([each.reshape(-1) for each in cut]))


@pytest.mark.parametrize("rows", [rotary_rows, fused_rows])
def test_every_row_is_there_once(rows):
    assert sorted(rows(48, 4).tolist()) == list(range(48))


def test_grouped_keys_are_moved_by_their_own_heads():
    config = random_base("llama").config
    assert torch.equal(row_order("model.layers.0.self_attn.k_proj", 32, config), rotary_rows(32, 2))
    assert torch.equal(row_order("model.layers.0.self_attn.q_proj", 64, config), rotary_rows(64, 4))
    assert torch.equal(row_order("model.layers.0.self_attn.v_proj", 32, config), torch.arange(32))


def test_an_alpha_of_zero_would_mean_none():
    silent = LoraWeights(torch.ones(2, 3), torch.ones(3, 2), 0.0)
    assert gguf_alpha({"q": silent}) == 1.0
    assert gguf_alpha({"q": silent, "k": LoraWeights(torch.ones(2, 3), torch.ones(3, 2), 1.5)}) == 3.0


def test_half_precision_is_written_in_float32(plain, tmp_path):
    base = random_base("qwen3")
    expert = plain(base)
    half = {
        path: LoraWeights(part.a.bfloat16(), part.b.bfloat16(), part.scale)
        for path, part in expert.payload.lora.items()
    }
    object.__setattr__(expert.payload, "adapter", half)
    _, tensors = exported(expert, base, tmp_path)
    path = "model.layers.0.mlp.up_proj"
    assert torch.equal(tensors["blk.0.ffn_up.weight.lora_a"], half[path].a.float())


def test_a_base_whose_rows_are_not_known_is_refused_by_its_type(plain):
    base = random_base("llama")
    expert = plain(base)
    base.config.model_type = "bloom"
    with pytest.raises(IncompatibleExpert, match=r"type 'bloom'.*known are.*llama"):
        FORMATS["gguf"].check([expert], Served(base.config))


def test_a_layer_that_llama_cpp_has_not_is_refused_by_its_path(plain):
    base = random_base("llama")
    expert = plain(base)
    part = next(iter(expert.payload.lora.values()))
    object.__setattr__(expert.payload, "adapter", {"model.layers.0.mlp.third_proj": part})
    with pytest.raises(IncompatibleExpert, match=r"no tensor for 'model\.layers\.0\.mlp\.third_proj'"):
        FORMATS["gguf"].check([expert], Served(base.config))
