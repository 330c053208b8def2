"""Experts on disk: the conformance suite accepts ours and refuses each way of being careless, by name."""

import itertools
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from collegium.core.cards import ExpertCard, expert_card_from_json
from collegium.core.errors import CollegiumError, CorruptExpert, IncompatibleExpert
from collegium.experts import (
    AdapterPayload,
    Expert,
    WholePayload,
    adapter_payload,
    load_expert,
    load_model,
    save_expert,
)
from collegium.experts.lora_files import read_lora
from collegium.models import LoraWeights
from collegium.testing.expert_format import check_expert_format
from collegium.testing.pico import random_adapter, random_base


class Form:
    """Our format, with save or load replaced by a careless one."""

    def __init__(self, save=save_expert, load=load_expert):
        self._save, self._load = save, load

    def save(self, expert, folder):
        return self._save(expert, folder)

    def load(self, folder, *, base=None, sites=None):
        return self._load(folder, base=base, sites=sites)


@pytest.fixture(scope="module")
def base():
    return random_base("llama")


@pytest.fixture(scope="module")
def expert(base):
    adapter = random_adapter(base, rank=2, targets=["q_proj", "up_proj"], layers=[1])
    card = ExpertCard(name="ours", kind="lora", base=base.fingerprint, documents={"train": ("a", "b")}, tokens_seen=7)
    return Expert(card, adapter_payload(base, adapter))


def whole_tensors(expert):
    model = expert.payload.model
    model = load_model(model, dtype=torch.float32) if isinstance(model, Path) else model
    return dict(model.state_dict())


@pytest.mark.parametrize("architecture", ["llama", "gpt2"])
def test_lora_experts_keep_the_contract(architecture):
    base = random_base(architecture)
    card = ExpertCard(name="ours", kind="lora", base=base.fingerprint)
    made = Expert(card, adapter_payload(base, random_adapter(base, rank=2, layers=[0], scale=1 / 3)))
    check_expert_format(Form(), made, sites=base.linear_sites())


def test_whole_experts_keep_the_contract(base):
    card = ExpertCard(name="own", kind="whole", base=base.fingerprint)
    made = Expert(card, WholePayload(random_base("llama", 3).model))
    check_expert_format(Form(), made, sites=base.linear_sites(), tensors=whole_tensors)


def load_raw(folder, *, base=None, sites=None):
    """Load without a single check."""
    raw = json.loads((folder / "card.json").read_text())
    card = ExpertCard(name=raw["name"], kind="lora")
    tensors = load_file(folder / "adapter_model.safetensors")
    paths = sorted({key.removeprefix("base_model.model.").rsplit(".lora_", 1)[0] for key in tensors})
    config = json.loads((folder / "adapter_config.json").read_text())

    def half(path, which):
        return tensors[f"base_model.model.{path}.lora_{which}.weight"]

    scale = config["lora_alpha"] / config["r"]
    return Expert(card, AdapterPayload({path: LoraWeights(half(path, "A"), half(path, "B"), scale) for path in paths}))


def load_for_any_base(folder, *, base=None, sites=None):
    """Check everything but which base it was made for."""
    return load_expert(folder, sites=sites)


def load_without_sites(folder, *, base=None, sites=None):
    """Compare nothing with the base's layers; a wrong number of rows in B goes unseen."""
    return load_expert(folder, base=base)


def load_without_checksums(folder, *, base=None, sites=None):
    card = expert_card_from_json((folder / "card.json").read_text(), where=str(folder))
    return Expert(card, read_lora(folder, sites=sites))


def save_rounded(expert, folder):
    adapter = {
        path: LoraWeights(each.a.half().float(), each.b, each.scale) for path, each in expert.payload.adapter.items()
    }
    return save_expert(Expert(expert.card, AdapterPayload(adapter)), folder)


def save_without_scale(expert, folder):
    adapter = {path: LoraWeights(each.a, each.b, 1.0) for path, each in expert.payload.adapter.items()}
    return save_expert(Expert(expert.card, AdapterPayload(adapter)), folder)


TICKS = itertools.count()


def save_with_the_time(expert, folder):
    card = save_expert(expert, folder)
    path = folder / "card.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "created": f"tick {next(TICKS)}"}))
    return card


def save_a_bare_card(expert, folder):
    save_expert(expert, folder)
    path = folder / "card.json"
    bare = {**json.loads(path.read_text()), "documents": {}, "tokens_seen": 0}
    path.write_text(json.dumps(bare))
    return bare


CARELESS = {
    "loads without checks": (Form(load=load_raw), "card"),
    "looks at no base": (Form(load=load_for_any_base), "another base"),
    "looks at no layers": (Form(load=load_without_sites), "another shape"),
    "looks at no checksums": (Form(load=load_without_checksums), "must be refused"),
    "rounds": (Form(save=save_rounded), "same bits"),
    "forgets the scale": (Form(save=save_without_scale), "same bits"),
    "writes the time": (Form(save=save_with_the_time), "equal bytes"),
    "forgets the documents": (Form(save=save_a_bare_card), "card comes back"),
}


@pytest.mark.parametrize("name", CARELESS)
def test_a_careless_format_is_rejected(name, expert, base):
    form, law = CARELESS[name]
    with pytest.raises(AssertionError, match=law):
        check_expert_format(form, expert, sites=base.linear_sites())


def test_card_and_payload_must_be_of_one_kind(expert):
    with pytest.raises(IncompatibleExpert, match="kind 'whole'"):
        Expert(ExpertCard(name="x", kind="whole"), expert.payload)


def test_the_digest_is_the_payloads_alone(expert, base, tmp_path):
    save_expert(expert.renamed("renamed"), tmp_path / "x")
    assert load_expert(tmp_path / "x").digest == expert.digest
    other = Expert(expert.card, adapter_payload(base, random_adapter(base, 1)))
    assert other.digest != expert.digest


def test_nan_is_refused_before_it_is_written(expert, tmp_path):
    path, weights = next(iter(expert.payload.adapter.items()))
    spoiled = AdapterPayload({path: LoraWeights(weights.a * float("nan"), weights.b, 1.0)})
    with pytest.raises(CorruptExpert, match="NaN"):
        save_expert(Expert(expert.card, spoiled), tmp_path / "x")


def test_a_folder_that_is_not_empty_is_left_alone(expert, tmp_path):
    (tmp_path / "thesis.txt").write_text("do not touch")
    with pytest.raises(CorruptExpert, match="not empty"):
        save_expert(expert, tmp_path)
    assert [each.name for each in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_link_in_place_of_a_file_is_refused(expert, tmp_path):
    save_expert(expert, tmp_path / "x")
    weights = tmp_path / "x" / "adapter_model.safetensors"
    weights.rename(tmp_path / "elsewhere")
    weights.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(CorruptExpert, match="plain files"):
        load_expert(tmp_path / "x")


@pytest.mark.parametrize(
    "fields",
    [
        {"payload": {"../../etc/passwd": "0" * 64}},
        {"payload": {"adapter_model.safetensors": "short"}},
        {"documents": {"train": "abc"}},
        {"base": {"config": "a"}},
        {"sources": [{"licence": "x"}]},
        {"sources": [{"name": "x", "price": "1"}]},
        {"kind": "pickle"},
        {"task": "anything"},
        {"parents": ["law"]},
        {"warnings": "none"},
        {"tokens_seen": True},
    ],
    ids=lambda fields: next(iter(fields)),
)
def test_a_card_is_read_strictly(expert, tmp_path, fields):
    save_expert(expert, tmp_path / "x")
    card = tmp_path / "x" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), **fields}))
    with pytest.raises(CollegiumError, match=next(iter(fields))):
        load_expert(tmp_path / "x")
