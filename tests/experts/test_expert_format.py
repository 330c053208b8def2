"""Experts on disk: the conformance suite accepts ours and refuses each way of being careless, by name."""

import copy
import itertools
import json
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
import torch
from safetensors.torch import load_file

from collegium.core.cards import ExpertCard, Kind, expert_card_from_json
from collegium.core.errors import CollegiumError, CorruptExpert, IncompatibleExpert
from collegium.experts import (
    AdapterPayload,
    Expert,
    WholePayload,
    adapter_payload,
    check_expert,
    load_expert,
    load_model,
    save_expert,
)
from collegium.experts.formats import FORMATS
from collegium.experts.fresh import COUNT, FRESH, PLACES, with_tensors
from collegium.experts.lora_files import read_lora
from collegium.experts.places import SOUND
from collegium.experts.recipe import LEARNING_RATES, SETTINGS, AdapterKind
from collegium.models import KINDS, FfnWeights, LoraWeights
from collegium.testing.expert_format import check_expert_format
from collegium.testing.pico import random_adapter, random_base, random_expert


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
    check_expert_format(Form(), made, sites=base.sites)


@pytest.mark.parametrize("architecture", ["llama", "gpt2", "gpt_neox"])
@pytest.mark.parametrize("kind", KINDS)
def test_experts_of_every_kind_keep_the_contract(kind, architecture):
    base = random_base(architecture)
    check_expert_format(Form(), random_expert(base, kind=kind, name="ours"), sites=base.sites)


def test_every_kind_has_a_form_and_all_tables_have_every_kind():
    adapters = set(KINDS)
    assert set(FORMATS) == {*adapters, "mta", "whole"} == set(get_args(Kind))
    assert {*adapters, "whole"} == set(LEARNING_RATES) == set(SETTINGS)
    assert adapters == set(get_args(AdapterKind)) == set(PLACES) == set(FRESH) == set(COUNT) == set(SOUND)


@pytest.mark.parametrize("kind", KINDS)
def test_a_reader_that_looks_at_no_places_is_rejected_for_every_kind(kind, base):
    with pytest.raises(AssertionError, match=r"another shape|place that the base lacks"):
        check_expert_format(Form(load=load_without_sites), random_expert(base, kind=kind), sites=base.sites)


@pytest.mark.parametrize("kind", ["bottleneck", "prefix"])
def test_a_reader_that_compares_no_shapes_is_rejected(kind, base, monkeypatch):
    monkeypatch.setitem(SOUND, kind, lambda shapes: True)
    with pytest.raises(AssertionError, match=r"clear error|another shape"):
        check_expert_format(Form(), random_expert(base, kind=kind), sites=base.sites)


@pytest.mark.parametrize("kind", ["ia3", "bottleneck", "prefix"])
def test_a_writer_that_forgets_what_is_no_tensor_or_rounds_is_rejected(kind, base):
    def forgetful(expert, folder):
        changed = {"ia3": {"side": "output"}, "bottleneck": {"scale": 1.0}, "prefix": {}}[kind]
        adapter = {path: replace(part, **changed) for path, part in expert.payload.adapter.items()}
        if kind == "prefix":
            adapter = with_tensors(adapter, lambda tensor: tensor.half().float())
        if kind == "ia3":
            adapter = {path: part for path, part in adapter.items() if "down_proj" not in path}
        return save_expert(Expert(expert.card, AdapterPayload(adapter)), folder)

    with pytest.raises(AssertionError, match=r"same bits|lost or gained"):
        check_expert_format(Form(save=forgetful), random_expert(base, kind=kind), sites=base.sites)


@pytest.mark.parametrize(
    ("kind", "edit", "words"),
    [
        ("bottleneck", {"version": 2}, "version 2"),
        ("bottleneck", {"format": "collegium-ffn"}, "collegium-bottleneck"),
        ("bottleneck", {"scales": {}}, "scale and weights"),
        ("bottleneck", {"scales": {"model.layers.0.mlp": "1"}}, "scales"),
        ("ffn", {"a_field_of_the_future": None}, "a_field_of_the_future"),
        ("prefix", {"heads": 2}, "heads"),
    ],
)
def test_our_own_configuration_is_read_strictly(kind, edit, words, base, tmp_path):
    FORMATS[kind].write(random_expert(base, kind=kind).payload, tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **edit}))
    with pytest.raises(IncompatibleExpert, match=words):
        FORMATS[kind].read(tmp_path, sites=base.sites)


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"lora"}))
def test_a_part_whose_tensors_do_not_go_together_is_refused(kind, base, tmp_path):
    adapter = random_expert(base, kind=kind).payload.adapter
    path, part = next(iter(adapter.items()))
    name, tensor = next(iter(part.tensors.items()))
    odd = FfnWeights({**part.tensors, name: torch.cat([tensor, tensor])}) if kind == "ffn" else copy.copy(part)
    if kind != "ffn":
        object.__setattr__(odd, name, torch.cat([tensor, tensor]))  # tests check shapes where parts are made
    expert = Expert(ExpertCard(name="odd", kind=kind), AdapterPayload({**adapter, path: odd}))
    with pytest.raises(IncompatibleExpert, match=path):
        check_expert(expert, sites=base.sites)


def test_a_block_of_another_shape_is_refused_by_its_parameter(base):
    path, part = next(iter(random_expert(base, kind="ffn").payload.adapter.items()))
    for name, tensor, words in (
        (
            "up_proj.weight",
            torch.ones(3, 64),
            r"'up_proj.weight' has shape \(3, 64\), in this base's block .*\(128, 64\)",
        ),
        ("extra.bias", torch.ones(3), r"'extra.bias' has shape \(3,\), in this base's block it has none"),
    ):
        odd = AdapterPayload({path: FfnWeights({**part.tensors, name: tensor})})
        with pytest.raises(IncompatibleExpert, match=words):
            check_expert(Expert(ExpertCard(name="odd", kind="ffn"), odd), sites=base.sites)


def test_whole_numbers_are_no_weights(base):
    path, part = next(iter(random_expert(base, kind="ffn").payload.adapter.items()))
    odd = AdapterPayload({path: FfnWeights({name: each.int() for name, each in part.tensors.items()})})
    with pytest.raises(IncompatibleExpert, match="floating-point"):
        check_expert(Expert(ExpertCard(name="int", kind="ffn"), odd))


def test_whole_experts_keep_the_contract(base):
    card = ExpertCard(name="own", kind="whole", base=base.fingerprint)
    made = Expert(card, WholePayload(random_base("llama", 3).model))
    check_expert_format(Form(), made, sites=base.sites, tensors=whole_tensors)


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
        check_expert_format(form, expert, sites=base.sites)


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
