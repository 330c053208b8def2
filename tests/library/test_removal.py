"""Who came from whom, and what a removal takes along."""

import json

import pytest
import torch
from tiny_library import make_expert

from collegium.core.errors import ConfigError, LibraryError, UnknownName
from collegium.experts import parents_of, save_expert
from collegium.library import Row
from collegium.library.lineage import descendants, lineage
from collegium.testing.library import snapshot


def test_lineage_is_a_tree_and_survives_a_lost_parent(library):
    library.add(make_expert("pair", 3, parents=parents_of([library["law"], library["code"]])))
    library.add(make_expert("leaf", 4, parents=parents_of([library["pair"]])))
    shown = library.show("leaf")
    assert [each.name for each in shown.lineage.parents[0].parents] == ["code", "law"]
    assert library.descendants("law") == ("leaf", "pair")
    removal = library.remove("law", keep_descendants=True)
    assert removal.removed == ("law",)
    assert removal.kept == ("leaf", "pair")
    assert removal.traces == ("prior",)
    library.save_router("prior", {"rows": torch.eye(1)}, {"experts": {"code": None}, "first": ["code", "sea"]})
    library.add(make_expert("sea", 3))
    assert library.remove("sea").traces == ("prior",)
    lost = library.show("leaf").lineage.parents[0].parents[1]
    assert (lost.name, lost.found) == ("law", False)
    library.add(make_expert("law", 8))
    assert library.descendants("law") == (), "an expert that took the name has none of the other's descendants"


def test_a_family_with_many_parents_is_told_once(library):
    """Each generation has all earlier ones as parents: expanded at every mention, this tree has 2 ** 16 nodes."""
    elders = []
    for number in range(16):
        library.add(make_expert(f"g{number:02}", number, parents=parents_of(elders)))
        elders.append(library[f"g{number:02}"])
    steps = list(library.show("g15").lineage.steps())
    assert len(steps) <= 1 + 16 * 15 / 2
    assert {node.name for _, node in steps} == {expert.name for expert in elders}
    assert all(node.found for _, node in steps)
    assert library.descendants("g00") == tuple(expert.name for expert in elders[1:])


def test_a_long_line_of_descent_is_followed_to_its_end(library):
    rows, digest = {}, ""
    for number in range(3000):
        parents = {f"c{number - 1}": digest} if number else {}
        digest = f"digest-{number}"
        rows[f"c{number}"] = Row(f"c{number}", "", digest=digest, parents_json=json.dumps(parents))
    assert [depth for depth, _ in lineage(rows, "c2999").steps()] == list(range(3000))
    assert len(descendants(rows, "c0")) == 2999


def test_a_card_that_names_itself_ends(library):
    law = library["law"]
    library.add(make_expert("loop", 5))
    digest = library["loop"].digest
    card = library.path / "experts" / "loop" / "card.json"
    card.write_text(json.dumps({**json.loads(card.read_text()), "parents": {"loop": digest, "law": law.digest}}))
    assert library.descendants("loop") == ()
    assert library.show("loop").lineage.name == "loop"


def test_both_ways_of_removing_at_once_are_refused(library):
    with pytest.raises(ConfigError, match="not both"):
        library.remove("law", cascade=True, keep_descendants=True)


def test_remaining_experts_and_routers_are_identical_after_add_and_remove(library):
    before = snapshot(library.path)
    library.add(make_expert("guest", 5))
    library.measure("guest", {"perplexity": 12.5})
    library.remove("guest")
    assert snapshot(library.path) == before
    assert sorted(each.name for each in library.path.iterdir() if each.name.startswith(".")) == [".lock"]


def test_a_model_takes_its_own_members_along(library):
    library.add(make_expert("judge-law", 3))
    library.add(make_expert("judge-code", 4))
    library.save_model("judge", {"members": ["judge-law", "judge-code", "law"], "router": "prior"})
    assert library.model_names() == ("judge",)
    with pytest.raises(LibraryError, match="judge came from 'law'"):
        library.remove("law")
    removal = library.remove("judge")
    assert removal.removed == ("judge", "judge-code", "judge-law")
    assert library.names() == ("code", "law")
    assert library.model_names() == ()


@pytest.mark.parametrize("record", ["{", '{"members": 3}', '{"members": [3]}', '{"members": {"law": 1}}', b"\xff"])
def test_a_damaged_model_is_told_blocks_nothing_and_can_be_removed(library, record):
    library.save_model("duo", {"members": ["law"]})
    (library.path / "models" / "duo.json").write_bytes(record if isinstance(record, bytes) else record.encode())
    with pytest.raises(LibraryError, match="'duo' is damaged"):
        library.load_model("duo")
    assert set(library.verify()) == {"duo"}
    assert library.remove("code").removed == ("code",)
    assert library.remove("duo").removed == ("duo",)
    assert library.model_names() == ()


def test_the_children_of_an_expert_with_a_damaged_card_are_found_by_its_name(library):
    library.add(make_expert("child", 3, parents=parents_of([library["law"]])))
    card = library.path / "experts" / "law" / "card.json"
    card.write_text(card.read_text()[:-9])
    with pytest.raises(LibraryError, match="child came from 'law'"):
        library.remove("law")
    assert library.show("child").lineage.parents[0].found
    assert library.remove("law", cascade=True).removed == ("child", "law")


def test_an_expert_that_is_a_link_is_removed_and_its_folder_stays(library, tmp_path):
    save_expert(make_expert("guest", 3), tmp_path / "guest")
    (library.path / "experts" / "guest").symlink_to(tmp_path / "guest")
    assert library.remove("guest").removed == ("guest",)
    assert (tmp_path / "guest" / "card.json").is_file()
    assert sorted(each.name for each in library.path.iterdir() if each.name.startswith(".")) == [".lock"]


def test_cascade_takes_models_along(library):
    library.save_model("pair", {"members": ["law", "code"]})
    assert library.remove("law", cascade=True).removed == ("law", "pair")
    assert library.model_names() == ()


def test_routers_are_removed_by_name(library):
    assert library.remove("prior").removed == ("prior",)
    assert library.router_names() == ()
    with pytest.raises(UnknownName):
        library.load_router("prior")


def test_what_a_removal_would_do_is_told_without_doing_it(library):
    before = snapshot(library.path)
    assert library.removal("law").removed == ("law",)
    with pytest.raises(UnknownName, match="law"):
        library.removal("lwa")
    with pytest.raises(ConfigError, match="not both"):
        library.removal("law", cascade=True, keep_descendants=True)
    assert snapshot(library.path) == before
