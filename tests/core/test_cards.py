"""Names, cards and tensors: what comes from a disk is checked on the way in."""

import dataclasses
import json

import pytest
import torch

from collegium.core.cards import (
    ExpertCard,
    Fingerprint,
    Source,
    content_hash,
    expert_card_from_json,
    json_object,
    to_json,
)
from collegium.core.errors import CorruptExpert, NameTaken, NewerFormat
from collegium.core.names import check_name, is_name
from collegium.core.tensors import read_shapes, read_tensors, tensor_bytes

CARD = ExpertCard(
    name="law",
    kind="lora",
    base=Fingerprint("c", "t", "w"),
    domain="law",
    sources=(Source("court opinions", "CC0", "ab"), Source("web")),
    documents={"train": ("a", "b"), "dev": ()},
    tokens_seen=9,
    recipe={"rank": 16, "layers": "all"},
    parents={"elder": "d" * 64},
    payload={"adapter_config.json": "0" * 64},
    warnings=("does not beat the base",),
)


def test_a_card_comes_back_as_it_was():
    assert expert_card_from_json(to_json(CARD), where="here") == CARD


@pytest.mark.parametrize("field", [each.name for each in dataclasses.fields(ExpertCard)])
def test_every_field_of_a_card_is_checked(field):
    raw = json.loads(to_json(CARD))
    raw[field] = {"nonsense": [1.5]} if field not in ("recipe", "constants") else "nonsense"
    with pytest.raises(CorruptExpert, match=field):
        expert_card_from_json(json.dumps(raw), where="here")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"name": "x"}', '{"name": NaN}', "[" * 5000, '{"name": "x", "kin'])
def test_a_card_that_is_none_is_refused(text):
    with pytest.raises(CorruptExpert, match="here"):
        expert_card_from_json(text, where="here")


def test_a_card_of_a_later_version_is_refused():
    later = json.dumps({**json.loads(to_json(CARD)), "version": 2, "colour": "red"})
    with pytest.raises(NewerFormat, match="version 2"):
        expert_card_from_json(later, where="here")


@pytest.mark.parametrize(
    "value", ["1e999", "-1e999", "100000000000000000000", "-9223372036854775809", '"\\ud800"', '{"\\udfff": 1}']
)
def test_what_neither_an_index_nor_utf_8_can_hold_is_refused(value):
    with pytest.raises(CorruptExpert, match="here"):
        json_object(f'{{"x": {value}}}', where="here")


def test_the_largest_whole_numbers_and_paired_surrogates_pass():
    found = json_object('{"a": 9223372036854775807, "b": -9223372036854775808, "c": "\\ud83d\\ude00"}', where="here")
    assert found == {"a": 2**63 - 1, "b": -(2**63), "c": "\N{GRINNING FACE}"}


def test_hashes_do_not_depend_on_order():
    assert content_hash({"a": 1, "b": 2}) == content_hash({"b": 2, "a": 1}) != content_hash({"a": 2, "b": 1})
    with pytest.raises(CorruptExpert, match="Infinity"):
        json_object('{"x": Infinity}', where="here")


@pytest.mark.parametrize("name", ["law", "9", "a.b-c_d", "x" * 64])
def test_plain_names_pass(name):
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "../x", "/etc", "a/b", "a\\b", ".x", "-x", "x" * 65, "a b", "a\n", "é", "a\0b"]
)
def test_names_with_path_parts_are_refused(name):
    assert not is_name(name)
    with pytest.raises(NameTaken, match="path parts"):
        check_name(name)


def test_the_bases_name_is_reserved():
    with pytest.raises(NameTaken, match="base model's own name"):
        check_name("base", what="router")


@pytest.mark.parametrize("name", ["classifier", "cluster", "cached_prior"])
def test_the_names_of_fitted_routers_are_theirs(name):
    assert check_name(name, what="router") == name
    assert is_name(name), "an expert that has it already is still found, and can be removed"
    for what in ("expert", "domain", "model"):
        with pytest.raises(NameTaken, match="router"):
            check_name(name, what=what)


def test_tensors_come_back_to_the_bit(tmp_path):
    tensors = {"b": torch.randn(3, 4).T, "a": torch.arange(3), "c": torch.tensor([1.5], dtype=torch.bfloat16)}
    (tmp_path / "t.safetensors").write_bytes(tensor_bytes(tensors))
    found = read_tensors(tmp_path / "t.safetensors")
    assert all(torch.equal(found[name], tensor) for name, tensor in tensors.items())
    assert read_shapes(tmp_path / "t.safetensors") == {"a": (3,), "b": (4, 3), "c": (1,)}
    assert tensor_bytes(tensors) == tensor_bytes(dict(reversed(tensors.items())))


def test_shared_tensors_are_written_apart(tmp_path):
    one = torch.ones(4)
    (tmp_path / "t").write_bytes(tensor_bytes({"whole": one, "half": one[:2]}))
    assert read_tensors(tmp_path / "t")["half"].tolist() == [1.0, 1.0]


@pytest.mark.parametrize("cut", [0, 4, 30, -1])
def test_truncated_tensors_are_refused(tmp_path, cut):
    (tmp_path / "t").write_bytes(tensor_bytes({"a": torch.ones(9)})[:cut])
    for read in (read_tensors, read_shapes):
        with pytest.raises(CorruptExpert, match="truncated"):
            read(tmp_path / "t")


def test_pickles_are_never_opened(tmp_path):
    torch.save({"a": torch.ones(1)}, tmp_path / "t")
    with pytest.raises(CorruptExpert, match="run code"):
        read_tensors(tmp_path / "t")


@pytest.mark.parametrize("dtype", [torch.float8_e4m3fn, torch.float8_e5m2])
def test_quantised_weights_are_refused(tmp_path, dtype):
    (tmp_path / "t").write_bytes(tensor_bytes({"a": torch.ones(2).to(dtype)}))
    with pytest.raises(CorruptExpert, match="float8"):
        read_tensors(tmp_path / "t")


def test_infinity_is_refused_unless_asked_for(tmp_path):
    (tmp_path / "t").write_bytes(tensor_bytes({"log_prior": torch.tensor([0.0, float("-inf")])}))
    with pytest.raises(CorruptExpert, match="log_prior"):
        read_tensors(tmp_path / "t")
    assert read_tensors(tmp_path / "t", finite=False)["log_prior"][1] == float("-inf")
