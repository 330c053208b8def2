"""Routers, derived values, and how fast thousands of experts are listed."""

import json

import pytest
import torch
from tiny_library import BASE

from collegium.core.cards import ExpertCard, to_json
from collegium.core.errors import LibraryError, NewerFormat, UnknownName
from collegium.core.protocols import Shelf
from collegium.library import Library


def test_a_router_comes_back_and_is_replaced_whole(library):
    shelf: Shelf = library
    tensors, card = shelf.load_router("prior")
    assert torch.equal(tensors["rows"], torch.eye(2))
    assert card == {"experts": ["code", "law"]}
    shelf.save_router("prior", {"rows": torch.zeros(3)}, {"experts": ["law"]})
    assert library.load_router("prior")[0]["rows"].shape == (3,)
    assert len(list((library.path / "routers" / "prior").iterdir())) == 2
    shelf.save_router("prior", {"rows": torch.zeros(3)}, {"experts": []})
    assert library.load_router("prior")[1] == {"experts": []}


def test_log_priors_of_minus_infinity_are_kept(library):
    library.save_router("hard", {"log": torch.tensor([0.0, float("-inf")])}, {})
    assert library.load_router("hard")[0]["log"][1] == float("-inf")
    assert library.verify() == {}


def test_unknown_routers_and_models_name_the_nearest(library):
    with pytest.raises(UnknownName, match="'prior'"):
        library.load_router("priro")
    for name in ("../prior", "", "nobody"):
        with pytest.raises(UnknownName):
            library.load_router(name)
        with pytest.raises(UnknownName):
            library.load_model(name)


@pytest.mark.parametrize(
    "edit",
    [
        lambda raw: {**raw, "file": "../../../etc/passwd"},
        lambda raw: {**raw, "file": "router-x.safetensors"},
        lambda raw: {**raw, "sha256": "0" * 64},
        lambda raw: {"card": {}},
        lambda raw: {**raw, "card": []},
    ],
)
def test_a_damaged_router_is_told(library, edit):
    card = library.path / "routers" / "prior" / "card.json"
    card.write_text(json.dumps(edit(json.loads(card.read_text()))))
    with pytest.raises(LibraryError, match="Fit it again"):
        library.load_router("prior")
    assert set(library.verify()) == {"prior"}


def test_derived_values_may_be_lost(library):
    key = {"kind": "prototype", "expert": "law", "digest": library["law"].digest}
    assert library.derived(key) is None
    library.keep_derived(key, {"x": torch.arange(3.0)})
    found = Library(library.path).derived(dict(reversed(key.items())))
    assert found is not None
    assert found["x"].tolist() == [0.0, 1.0, 2.0]
    path = next((library.path / "derived").iterdir())
    path.write_bytes(path.read_bytes()[:-2])
    assert library.derived(key) is None
    path.unlink()
    assert library.derived(key) is None


def test_a_thousand_experts_open_without_their_cards(tmp_path, monkeypatch):
    """What the index knows is not read again; bench V6 says how long that takes."""
    library = Library(tmp_path / "large", base=BASE)
    for number in range(1000):
        folder = library.path / "experts" / f"e{number:04d}"
        folder.mkdir(parents=True)
        (folder / "card.json").write_text(to_json(ExpertCard(name=folder.name, kind="lora", base=BASE)))
    assert len(library) == 1000
    monkeypatch.setattr("collegium.library.index.read_card", lambda folder: pytest.fail(f"{folder} was read again"))
    assert len(Library(library.path, base=BASE).names(task="language")) == 1000


def test_an_index_of_another_schema_is_rebuilt(library, monkeypatch):
    library.names()
    monkeypatch.setattr("collegium.library.index._SCHEMA", 99)
    assert Library(library.path).names() == ("code", "law")
    assert Library(library.path).names() == ("code", "law")


def test_a_library_of_a_newer_format_is_refused_by_an_open_one_too(library):
    manifest = library.path / "collegium.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "format": 2}))
    with pytest.raises(NewerFormat):
        library.set_defaults(router="uniform")


def test_a_router_is_changed_by_what_it_holds(library):
    shelf: Shelf = library
    shelf.update_router("prior", lambda tensors, card: ({"rows": 2 * tensors["rows"]}, {**card, "fit": 2}))
    tensors, card = library.load_router("prior")
    assert torch.equal(tensors["rows"], 2 * torch.eye(2))
    assert card == {"experts": ["code", "law"], "fit": 2}
    with pytest.raises(UnknownName, match="'prior'"):
        shelf.update_router("priro", lambda tensors, card: (tensors, card))


def test_an_experts_digest_is_that_of_its_payload(library):
    shelf: Shelf = library
    assert shelf.expert_digest("law") == library["law"].digest
    assert shelf.expert_digest("nobody") is None
    assert library.filter(["law"]).expert_digest("code") is None
