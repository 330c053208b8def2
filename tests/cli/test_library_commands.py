"""`library`: shapes are compared wherever an expert comes in, plans are checked, and a refused step leaves nothing."""

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from collegium.core.cards import ExpertCard
from collegium.experts import AdapterPayload, Expert, adapter_payload, save_expert
from collegium.library import Library
from collegium.models import LoraWeights, load_base
from collegium.testing.library import snapshot
from collegium.testing.pico import random_adapter


@pytest.fixture(scope="module")
def base(pico_folder):
    return load_base(str(pico_folder))


def expert(base, name, **fields):
    card = ExpertCard(name=name, kind="lora", base=base.fingerprint, **fields)
    return Expert(card, adapter_payload(base, random_adapter(base)))


def narrow(base, name):
    """An expert that says nothing about its base and fits half as wide a layer."""
    adapter = {path: LoraWeights(each.a[:, ::2].clone(), each.b, 1.0) for path, each in random_adapter(base).items()}
    return Expert(ExpertCard(name=name, kind="lora"), AdapterPayload(adapter))


@pytest.fixture
def library(base, pico_folder, tmp_path):
    made = Library(tmp_path / "college", base=base, base_reference=str(pico_folder))
    made.add(expert(base, "law"))
    return made


@pytest.fixture
def folder(base, tmp_path):
    """Folders of experts from elsewhere."""
    save_expert(narrow(base, "narrow"), tmp_path / "narrow")
    save_expert(expert(base, "guest"), tmp_path / "some-folder")
    unnamed = expert(base, "unnamed")
    save_expert(Expert(dataclasses.replace(unnamed.card, base=None), unnamed.payload), tmp_path / "unnamed")
    (tmp_path / "empty").mkdir()
    return tmp_path


@pytest.mark.filterwarnings("always::collegium.library.UnverifiedBase")
@pytest.mark.parametrize("noted", [True, False])
def test_an_expert_of_other_shapes_is_refused(ask, library, folder, noted):
    if not noted:  # an older library, or one whose derived values were deleted
        shutil.rmtree(library.path / "derived")
    code, found, shown = ask("library", "add", folder / "narrow", "--library", library.path)
    assert (code, found) == (2, None)
    assert "this base has 128 and 64 there" in shown
    assert library.names() == ("law",)
    code, _, shown = ask("library", "add", folder / "unnamed", "--library", library.path)
    assert code == 0
    assert "names and shapes fit" in shown
    assert (library.path / "derived").is_dir(), "the base was at hand, so its layers are noted again"


def test_a_library_that_cannot_name_its_base_asks_for_it(ask, base, folder, pico_folder):
    made = Library(folder / "made", base=base.fingerprint)
    code, _, shown = ask("library", "add", folder / "some-folder", "--library", made.path)
    assert code == 2
    assert "--base" in shown
    assert ask("library", "add", folder / "some-folder", "--library", made.path, "--base", pico_folder)[0] == 0
    assert ask("library", "add", folder / "some-folder", "--library", made.path, "--as", "second")[0] == 0


def test_verify_compares_shapes_or_says_that_it_does_not(ask, base, library, pico_folder, tmp_path):
    bad = narrow(base, "bad")
    save_expert(bad, library.path / "experts" / "bad")
    code, found, _ = ask("library", "verify", "--library", library.path)
    assert (code, found["shapes_compared"], list(found["problems"])) == (1, True, ["bad"])
    shutil.rmtree(library.path / "derived")
    code, found, shown = ask("library", "verify", "--library", library.path)
    assert (code, found["shapes_compared"]) == (0, False)
    assert "shapes were not compared" in shown
    code, found, _ = ask("library", "verify", "--library", library.path, "--base", pico_folder)
    assert (code, found["shapes_compared"], list(found["problems"])) == (1, True, ["bad"])


@pytest.mark.parametrize(
    ("words", "lesson"),
    [
        (["{folder}/some-folder", "--as", "law"], "already"),
        (["{folder}/some-folder", "--as", "../x"], "path parts"),
        (["{folder}/some-folder", "--as", "classifier"], "router"),
        (["{folder}/empty"], "holds no expert"),
        (["{folder}/narrow"], "maps"),
    ],
)
def test_a_plan_refuses_what_adding_would_refuse(ask, library, folder, words, lesson):
    words = ["library", "add", *(word.format(folder=folder) for word in words), "--library", library.path]
    before = snapshot(library.path)
    for plan in ([], ["--dry-run"]):
        code, found, shown = ask(*words, *plan)
        assert (code, found) == (2, None)
        assert lesson in shown
    assert snapshot(library.path) == before


def test_a_plan_names_what_adding_would_name(ask, library, folder):
    words = ["library", "add", folder / "some-folder", "--library", library.path]
    before = snapshot(library.path)
    assert ask(*words, "--dry-run")[1]["would_add"] == "guest"
    assert snapshot(library.path) == before
    assert ask(*words)[1]["added"] == "guest"


def test_a_refused_expert_leaves_no_new_library_behind(ask, folder, pico_folder):
    words = ["--library", folder / "new", "--base", pico_folder]
    for plan in ([], ["--dry-run"]):
        assert ask("library", "add", folder / "narrow", *words, *plan)[0] == 2
    assert ask("library", "add", folder / "some-folder", *words, "--dry-run")[1]["would_add"] == "guest"
    assert not (folder / "new").exists()
    assert ask("library", "add", folder / "some-folder", *words)[1]["added"] == "guest"


def test_a_file_is_no_library(ask, folder, pico_folder):
    (folder / "file").write_text("x")
    for plan in ([], ["--dry-run"]):
        words = ["--library", folder / "file", "--base", pico_folder, *plan]
        code, _, shown = ask("library", "add", folder / "some-folder", *words)
        assert code == 2
        assert "is a file, no library" in shown


def test_a_folder_whose_name_is_no_name_asks_for_one(ask, library, folder):
    theirs = folder / "my adapter"
    shutil.copytree(library.path / "experts" / "law", theirs, ignore=shutil.ignore_patterns("card.json"))
    code, _, shown = ask("library", "add", theirs, "--library", library.path)
    assert code == 2
    assert "--as" in shown
    words = ["library", "add", theirs, "--library", library.path, "--as", "mine", "--trust-base"]
    assert ask(*words)[1]["added"] == "mine"


def test_a_home_is_found(ask, library, monkeypatch):
    monkeypatch.setenv("HOME", str(library.path.parent))
    code, found, _ = ask("library", "list", "--library=~/college")
    assert (code, [each["name"] for each in found["experts"]]) == (0, ["law"])
    assert Library(Path("~/college")).path == library.path


def test_both_ways_of_removing_are_refused_in_a_plan_too(ask, library):
    words = ["library", "remove", "law", "--library", library.path, "--cascade", "--keep-descendants"]
    for plan in ([], ["--dry-run"]):
        code, _, shown = ask(*words, *plan)
        assert code == 2
        assert "not both" in shown
    assert library.names() == ("law",)


def test_a_card_does_not_command_the_terminal(ask, base, library):
    library.add(expert(base, "loud", domain="a\x1b[2Jb\x9bc\x07"))
    code, found, shown = ask("library", "list", "--library", library.path)
    assert (code, found["experts"][1]["domain"]) == (0, "a\x1b[2Jb\x9bc\x07")
    assert "\x1b" not in shown
    assert "\x9b" not in shown
    assert "a[2Jbc" in shown


def test_lineage_is_told(ask, base, library):
    library.add(expert(base, "child", parents={"law": library["law"].digest, "lost": "0" * 64}))
    code, found, shown = ask("library", "show", "child", "--library", library.path)
    assert code == 0
    assert found["lineage"] == [
        {"depth": 0, "name": "child", "found": True},
        {"depth": 1, "name": "law", "found": True},
        {"depth": 1, "name": "lost", "found": False},
    ]
    assert "from lost (no longer in the library)" in shown


@pytest.mark.parametrize(
    "defaults", [{"router": 5}, {"top_k": "two"}, {"top_k": 0}, {"top_k": True}, {"composition": []}, {"colour": "red"}]
)
def test_damaged_defaults_are_told(ask, library, defaults):
    manifest = library.path / "collegium.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "defaults": defaults}))
    code, _, shown = ask("library", "list", "--library", library.path)
    assert code == 2
    assert "collegium.json" in shown
