"""What a library holds: names, views, defaults, measurements, verification."""

import dataclasses
import shutil

import pytest
import torch
from tiny_library import BASE, make_expert

from collegium.core.errors import (
    CorruptExpert,
    LibraryError,
    NameTaken,
    ResourceError,
)
from collegium.library import Library
from collegium.testing.library import snapshot

EXPERTS = (make_expert("beta", 1), make_expert("alpha", 2), make_expert("gamma", 3))


def test_names_are_unique_over_experts_routers_and_models(library):
    library.save_model("duo", {"members": ["law"]})
    for name in ("prior", "duo", "law"):
        with pytest.raises(NameTaken):
            library.add(make_expert(name))
    for name in ("law", "duo"):
        with pytest.raises(NameTaken):
            library.save_router(name, {}, {})
    for name in ("law", "prior", "base", "../x"):
        with pytest.raises(NameTaken):
            library.save_model(name, {})
    library.save_model("duo", {"members": ["code"]})
    assert library.load_model("duo") == {"members": ["code"]}


def test_a_view_is_read_but_neither_grows_nor_shrinks(library):
    view = library.filter(["law"])
    for action in (lambda: view.add(make_expert("new")), lambda: view.remove("law")):
        with pytest.raises(LibraryError, match="part of a library"):
            action()
    view.save_router("of-a-part", {"x": torch.ones(1)}, {"experts": ["law"]})
    assert library.router_names() == ("of-a-part", "prior")


def test_a_read_only_library_writes_nothing(library):
    shutil.rmtree(library.path / "routers")
    (library.path / "index.sqlite").unlink()
    before = sorted(library.path.rglob("*"))
    closed = Library(library.path, read_only=True)
    assert closed.names() == ("code", "law")
    assert closed["law"].name == "law"
    assert closed.verify() == {}
    closed.keep_derived("key", {"x": torch.ones(1)})
    for action in (
        lambda: closed.add(make_expert("new")),
        lambda: closed.remove("law"),
        lambda: closed.measure("law", {}),
        lambda: closed.set_defaults(router="uniform"),
        lambda: closed.save_router("r", {}, {}),
        lambda: closed.update_router("r", lambda tensors, card: (tensors, card)),
    ):
        with pytest.raises(ResourceError, match="read-only"):
            action()
    assert sorted(library.path.rglob("*")) == before


def test_defaults_are_kept(library):
    assert library.defaults.router is None
    library.set_defaults(router="posterior", composition="ensemble", top_k=2)
    assert dataclasses.astuple(Library(library.path).defaults) == ("posterior", "ensemble", 2)
    assert Library(library.path).base_fingerprint == BASE


def test_measurements_are_appended(library):
    library.measure("law", {"perplexity": 3.5})
    library.measure("law", {"perplexity": 3.25})
    assert [each["perplexity"] for each in library.metrics("law")] == [3.5, 3.25]
    assert library.show("law").metrics == tuple(library.metrics("law"))
    assert library.verify() == {}
    with pytest.raises(ValueError, match="JSON compliant"):
        library.measure("law", {"perplexity": float("nan")})
    assert len(library.metrics("law")) == 2


@pytest.mark.parametrize("mark", ["\u2028", "\u2029", "\x85", "\x1c", "\r", "\n"])
def test_a_measurement_is_one_line_whatever_its_text(library, mark):
    library.measure("law", {"sample": f"a{mark}b"})
    library.measure("law", {"sample": "c"})
    assert [each["sample"] for each in library.metrics("law")] == [f"a{mark}b", "c"]
    assert library.verify() == {}


@pytest.mark.parametrize("value", [10**20, "\ud800"])
def test_what_could_not_be_read_again_is_not_written(library, value):
    before = snapshot(library.path)
    with pytest.raises(CorruptExpert, match="not JSON"):
        library.measure("law", {"sample": value})
    with pytest.raises(CorruptExpert, match="not JSON"):
        library.add(make_expert("new", 3, recipe={"value": value}))
    assert snapshot(library.path) == before


def test_measurements_that_are_no_text_are_told(library):
    (library.path / "experts" / "law" / "metrics.jsonl").write_bytes(b'{"x": 1}\n\xff\n')
    with pytest.raises(CorruptExpert, match="UTF-8"):
        library.metrics("law")
    assert set(library.verify()) == {"law"}


def test_an_expert_comes_with_its_first_measurement(library):
    library.add(make_expert("new", 3), measured={"perplexity": 3.5})
    library.measure("new", {"perplexity": 3.25})
    assert [each["perplexity"] for each in library.metrics("new")] == [3.5, 3.25]
    with pytest.raises(ValueError, match="JSON compliant"):
        library.add(make_expert("odd", 4), measured={"perplexity": float("nan")})
    assert "odd" not in library
    assert library.verify() == {}


def test_verify_names_every_kind_of_damage(library):
    library.save_model("duo", {"members": ["law", "gone"]})
    (library.path / "experts" / "law" / "card.json").unlink()
    (library.path / "experts" / "code" / "metrics.jsonl").write_text("{oops\n")
    (library.path / "experts" / "not a name").mkdir()
    next((library.path / "routers" / "prior").glob("*.safetensors")).write_bytes(b"")
    problems = library.verify()
    assert set(problems) == {"law", "code", "experts/not a name", "prior", "duo"}
    assert "gone" in problems["duo"][0]


def test_an_expert_in_a_folder_of_another_name_is_refused(library):
    shutil.copytree(library.path / "experts" / "law", library.path / "experts" / "wrong")
    with pytest.raises(CorruptExpert, match="names another expert"):
        library["wrong"]
    assert set(library.verify()) == {"wrong"}
