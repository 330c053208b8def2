"""A base's name always means the same file: folders, pinned packages and hub references."""

import json
import shutil

import pytest
import torch

from collegium.core.errors import BaseModelError, ConfigError, ResourceError
from collegium.models import load_base, load_tokenizer
from collegium.models.fingerprint import hash_tokenizer, live_tokenizer_hash
from collegium.testing.pico import byte_tokenizer, pico_base, random_base


@pytest.fixture
def folder(tmp_path):
    """A transformers folder with tokenizer."""
    base = pico_base()
    base.model.save_pretrained(tmp_path / "pico")
    base.tokenizer.save_pretrained(tmp_path / "pico")
    return tmp_path / "pico"


def test_a_folder_gives_the_model_that_was_saved(folder, tokens):
    base, kept = load_base(folder), pico_base()
    assert torch.equal(base.logprobs(tokens), kept.logprobs(tokens))
    assert base.tokenizer.encode("To be") == [84, 111, 32, 98, 101]
    assert (
        base.tokenizer.apply_chat_template([{"role": "user", "content": "hi"}], tokenize=False).count("im_start") == 1
    )
    assert base.fingerprint.tokenizer == kept.fingerprint.tokenizer
    assert base.name == "pico"
    assert str(folder) in base.source


def test_the_fingerprint_is_of_the_files_not_of_the_dtype(folder, tmp_path):
    full, half = load_base(folder), load_base(str(folder), dtype="bfloat16")
    assert half.dtype == torch.bfloat16
    assert half.fingerprint == full.fingerprint
    shutil.copytree(folder, tmp_path / "elsewhere")
    assert load_base(tmp_path / "elsewhere").fingerprint == full.fingerprint


def test_the_fingerprint_tells_other_weights_configurations_and_tokenizers(folder):
    first = load_base(folder).fingerprint
    random_base("llama", 9).model.save_pretrained(folder)
    second = load_base(folder).fingerprint
    assert (first.config, first.tokenizer) == (second.config, second.tokenizer)
    assert first.weights != second.weights
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "rms_norm_eps": 1e-3}))
    assert load_base(folder).fingerprint.config != first.config
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    assert load_base(folder).fingerprint.tokenizer != first.tokenizer


def test_the_fingerprint_tells_how_tokenizers_cut_text_and_not_how_they_spell_merges():
    from tokenizers import normalizers, pre_tokenizers

    plain, lower, split = (byte_tokenizer() for _ in range(3))
    lower.backend_tokenizer.normalizer = normalizers.Lowercase()
    split.backend_tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    assert len({live_tokenizer_hash(each) for each in (plain, lower, split)}) == 3
    told = {"model": {"type": "BPE", "vocab": {"T": 0, "o": 1, "To": 2}, "merges": ["T o"]}}
    paired = {"model": {**told["model"], "merges": [["T", "o"]]}}
    assert hash_tokenizer(told) == hash_tokenizer(paired)
    assert hash_tokenizer(told) != hash_tokenizer({"model": {**told["model"], "merges": []}})


def test_a_version_of_transformers_does_not_change_the_fingerprint(folder):
    first = load_base(folder).fingerprint
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "transformers_version": "99.0", "use_cache": False}))
    assert load_base(folder).fingerprint == first


def test_hashes_are_kept_until_the_file_changes(folder, cache, monkeypatch):
    read = []
    from collegium.models import fingerprint

    plain = fingerprint.file_hash
    monkeypatch.setattr(fingerprint, "file_hash", lambda path: (read.append(path.name), plain(path))[1])
    first = load_base(folder).fingerprint
    assert load_base(folder).fingerprint == first
    assert read.count("model.safetensors") == 1
    random_base("llama", 9).model.save_pretrained(folder)
    assert load_base(folder).fingerprint != first
    note = next((cache / "hashes").glob("*.json"))
    note.write_text("{")
    assert load_base(folder).fingerprint.weights


def test_a_folder_without_tokenizer_serves_token_ids(tmp_path, tokens):
    random_base("gpt2").model.save_pretrained(tmp_path)
    base = load_base(tmp_path)
    assert base.tokenizer is load_tokenizer(tmp_path) is None
    assert base.fingerprint.tokenizer == "none"
    assert base.score(tokens).shape == tokens.shape


def test_pickled_weights_are_never_opened(folder):
    torch.save({}, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="pickle"):
        load_base(folder)


def test_code_in_a_folder_is_never_run(folder):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "auto_map": {"AutoModelForCausalLM": "evil.Model"}}))
    with pytest.raises(BaseModelError, match="run code"):
        load_base(folder)


def test_damaged_folders_teach(folder, tmp_path):
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        load_base(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(BaseModelError, match="not JSON"):
        load_base(folder)
    with pytest.raises(BaseModelError, match=r"no config\.json"):
        load_base(tmp_path)


HALF_A_TOKENIZER = json.dumps({"model": {"type": "BPE", "vocab": {}}, "added_tokens": [{"content": "<|new|>"}]})


@pytest.mark.parametrize("text", ["{", "[]", '{"model": {}}', '{"model": []}', HALF_A_TOKENIZER])
def test_damaged_tokenizers_teach(folder, text):
    (folder / "tokenizer.json").write_text(text)
    with pytest.raises(BaseModelError, match="tokenizer"):
        load_base(folder)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hidden_size": "x"}, "expected int"),
        ({"num_attention_heads": 7}, "not a multiple"),
        ({"num_attention_heads": 0}, "ZeroDivisionError"),
        ({"hidden_act": "zzz"}, "'zzz' .KeyError"),
        ({"model_type": "zzz"}, "does not recognize"),
    ],
)
def test_impossible_configurations_teach(folder, change, reason):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **change}))
    with pytest.raises(BaseModelError, match=f"cannot be loaded as a causal language model: .*{reason}"):
        load_base(folder)


def test_a_configuration_that_is_a_list_is_told_as_such(folder):
    (folder / "config.json").write_text("[]")
    with pytest.raises(BaseModelError, match="holds no object but a list"):
        load_base(folder)


def test_weights_that_are_not_finite_are_told_as_such(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    state["model.norm.weight"][0] = float("nan")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="not finite"):
        load_base(folder)


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("DefaultCPUAllocator: can't allocate memory")])
def test_a_base_that_memory_does_not_hold_names_the_flag(folder, monkeypatch, error):
    from transformers import AutoModelForCausalLM

    def refuse(*_, **__):
        raise error

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", refuse)
    with pytest.raises(ResourceError, match="lower --dtype to bfloat16 or take a smaller base"):
        load_base(folder)


def test_missing_weights_are_refused_not_made_up(folder):
    from safetensors.torch import load_file, save_file

    state = load_file(folder / "model.safetensors")
    del state["model.norm.weight"]
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(BaseModelError, match="lacks 1 weights"):
        load_base(folder)


def test_a_mistyped_name_is_answered_with_the_nearest():
    with pytest.raises(BaseModelError, match="Did you mean 'smollm2-135m'"):
        load_base("smolm2-135m")
    with pytest.raises(ConfigError, match="Did you mean 'float32'"):
        load_base("smollm2-135m", dtype="float3")
    with pytest.raises(ConfigError, match="a device is one of"):
        load_base("smollm2-135m", device="gpu0")


def test_hub_references_need_a_revision():
    for ref in ("hf:owner/name", "hf:name@main", "hf:"):
        with pytest.raises(BaseModelError, match="hf:owner/name@revision"):
            load_base(ref)


def test_a_hub_model_offline_says_so(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    said = []
    with pytest.raises(BaseModelError, match="cannot be fetched"):
        load_base("hf:nobody/nothing-at-all@0123abc", progress=said.append)
    assert said == ["fetching nobody/nothing-at-all at 0123abc from the hub"]


COMMIT = "a" * 40


@pytest.fixture
def snapshot(folder, tmp_path, monkeypatch):
    """A whole snapshot in a hub cache of this test alone, and no network."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    target = tmp_path / "hub" / "models--own--name" / "snapshots" / COMMIT
    shutil.copytree(folder, target)
    return target


def test_a_whole_hub_snapshot_loads_without_a_word_to_the_hub(snapshot, tokens):
    said = []
    base = load_base(f"hf:own/name@{COMMIT}", progress=said.append)
    assert said == []
    assert base.source == f"hf:own/name@{COMMIT} (Hugging Face hub)"
    assert torch.equal(base.logprobs(tokens), pico_base().logprobs(tokens))


@pytest.mark.parametrize("missing", ["config.json", "model.safetensors", "model-2.safetensors"])
def test_a_part_of_a_hub_snapshot_is_fetched_again(snapshot, missing):
    if missing == "model-2.safetensors":
        index = {"weight_map": {"a": "model.safetensors", "b": missing}}
        (snapshot / "model.safetensors.index.json").write_text(json.dumps(index))
    else:
        (snapshot / missing).unlink()
    said = []
    with pytest.raises(BaseModelError, match="Go online and run again"):
        load_base(f"hf:own/name@{COMMIT}", progress=said.append)
    assert said == [f"fetching own/name at {COMMIT} from the hub"]


def test_a_hub_snapshot_without_tokenizer_is_fetched_again_and_serves_token_ids(snapshot, tokens):
    (snapshot / "tokenizer.json").unlink()
    said = []
    base = load_base(f"hf:own/name@{COMMIT}", progress=said.append)
    assert said == [f"fetching own/name at {COMMIT} from the hub"]
    assert base.tokenizer is None
